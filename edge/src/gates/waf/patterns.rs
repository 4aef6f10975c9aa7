//! What is looked for. One line per pattern: its name, family, score, the parts it is looked for in, and itself.
//!
//! Written for text that [`super::normal`] has normalised, without regard to case, for the `regex` crate (no
//! look-around, time linear in the input). A score of 5 is objected to by itself under the default threshold; what
//! ordinary people write too has less, and counts together with others. Every pattern asks for a byte that is neither
//! letter, digit nor dash: parts without one are not looked at.

use nearside_fleet::config::gates::WafFamily::{
    self, Expression, Protocol, Request, Scanner, Shell, Sql, Traversal, Xss,
};

/// The path.
pub const PATH: u8 = 1;
/// Names and values of the query's parameters, and fields that the operator named.
pub const QUERY: u8 = 2;
/// `Referer`, `User-Agent`, `X-Forwarded-For`.
pub const HEADERS: u8 = 4;
/// `User-Agent` alone.
pub const AGENT: u8 = 8;

/// One of them.
pub struct Pattern {
    /// What logs and exclusions call it.
    pub id: &'static str,
    /// Its family.
    pub family: WafFamily,
    /// What it adds.
    pub score: u32,
    /// Where it is looked for: bits.
    pub inputs: u8,
    /// A regular expression.
    pub text: &'static str,
    /// Looked for by itself and not in one pass with the others: see [`apart`].
    pub apart: bool,
}

const fn pattern(id: &'static str, family: WafFamily, score: u32, inputs: u8, text: &'static str) -> Pattern {
    Pattern { id, family, score, inputs, text, apart: false }
}

/// A pattern that goes on over whatever comes between two signs. Several of these in one automaton multiply its states:
/// every combination of beginnings seen so far is one, and a text made for it makes the automaton be thrown away and
/// built again until the engine goes over to one that is a hundred times slower. By itself each is small, and most
/// are over at once where a word that they need is missing.
const fn apart(id: &'static str, family: WafFamily, score: u32, inputs: u8, text: &'static str) -> Pattern {
    Pattern { id, family, score, inputs, text, apart: true }
}

const BOTH: u8 = PATH | QUERY;

/// All of them.
pub const PATTERNS: &[Pattern] = &[
    // -- SQL injection.
    pattern(
        "sql-union",
        Sql,
        5,
        BOTH,
        r#"\bunion\b[\s(]+(?:(?:all|distinct)[\s(]+)?select\b[\s(]*(?:null\b|[\d@'"*]|[\w.`]+\s*,|(?:concat|group_concat|char|version|user|database|load_file)\b|[\w.`*]+\s+from\b)"#,
    ),
    pattern(
        "sql-tautology",
        Sql,
        5,
        BOTH,
        r#"['"`]\s*\)*\s*(?:or|and|xor|\|\||&&)\s*[(!]*\s*['"`]?\w*['"`]?\s*(?:=|<|>|!=|\blike\b|\bis\s+(?:not\s+)?null\b|\bbetween\b|\bin\s*\()"#,
    ),
    pattern(
        "sql-tautology-number",
        Sql,
        5,
        BOTH,
        r"\bor\b\s*\(*\s*-?\d+\s*(?:=|<|>|!=|\blike\b)\s*-?\d|\b(?:and|xor)\b\s*\(*\s*-?(?:0\s*=\s*[01]|1\s*=\s*[0-2]|2\s*=\s*[1-3]|3\s*=\s*[34]|4\s*=\s*[45]|5\s*=\s*[56]|6\s*=\s*[67]|7\s*=\s*[78]|8\s*=\s*[89]|9\s*=\s*9|\d\d+\s*=\s*\d\d)",
    ),
    apart("sql-tautology-text", Sql, 5, BOTH, r#"\b(?:or|and|xor)\b\s*\(?\s*'[^']*'\s*(?:=|like\b)\s*'"#),
    pattern("sql-quote-comment", Sql, 5, BOTH, r#"['")`][\s)]*(?:--|#)[\s+-]*$|'[\s)]*;?\s*--\s|'\s*/\*"#),
    apart(
        "sql-stacked",
        Sql,
        5,
        BOTH,
        r#"[;')]\s*(?:drop\s+(?:table|database|view|user|schema|index)\b|alter\s+(?:table|user|database)\b|create\s+(?:table|user|database|function|procedure)\b|truncate\s+table\b|insert\s+into\b|update\s+\w+\s+set\b|delete\s+from\b|exec(?:ute)?\b[\s(]+(?:master|xp_|sp_|immediate)|declare\s+@|shutdown\b|grant\s+\w+\s+(?:on|to)\b|select\b[^;]*\bfrom\b)"#,
    ),
    pattern(
        "sql-statement",
        Sql,
        3,
        QUERY,
        r#"\b(?:drop\s+(?:table|database)\s|insert\s+into\s+\w+\s*(?:\(|values\b)|delete\s+from\s+\w+\s*(?:where\b|;|--|$)|update\s+\w+\s+set\s+\w+\s*=)"#,
    ),
    apart(
        "sql-schema",
        Sql,
        5,
        BOTH,
        r#"\bselect\b[^;]*\bfrom\b[\s(`]+(?:information_schema|mysql\.|performance_schema|pg_catalog|pg_(?:user|shadow|tables)|sys(?:objects|columns|\.)|sqlite_master|all_tables|v\$version|dual\b)|\binformation_schema\.\w"#,
    ),
    pattern(
        "sql-function",
        Sql,
        5,
        BOTH,
        r#"\bbenchmark\s*\(\s*\d|\b(?:pg_sleep|load_file|extractvalue|updatexml|randomblob|xp_cmdshell|xp_dirtree|utl_http\.request|utl_inaddr\.\w+|dbms_pipe\.receive_message|sys_exec|sys_eval)\s*\(|\bexec\s+(?:master\.\.)?xp_\w|\bwaitfor\s+delay\s*['"]|\binto\s+(?:outfile|dumpfile)\s*['"]"#,
    ),
    pattern("sql-sleep", Sql, 3, QUERY, r#"\b(?:sleep|dbms_lock\.sleep)\s*\(\s*\d"#),
    pattern(
        "sql-boolean",
        Sql,
        5,
        BOTH,
        r#"\b(?:and|or|xor|where|having)\b\s*!?\s*(?:\(\s*select\b|exists\s*\(\s*select\b|(?:not\s+)?\(?\s*(?:(?:sleep|unhex|database|version|current_user|system_user|if)\s*\(|(?:ascii|ord|substr(?:ing)?|mid|length|char_length)\s*\(\s*(?:\(*\s*select\b|@@|database\b|version\b|user\b|current_user\b|password\b|ascii\b|substr)))"#,
    ),
    apart(
        "sql-subselect",
        Sql,
        5,
        BOTH,
        r#"[(=,|+-]\s*select\b[^;]*\bfrom\b\s*[\w`(]|\bcase\s+when\b[^;]*\bthen\b[^;]*\bend\b"#,
    ),
    pattern(
        "sql-order-by",
        Sql,
        5,
        BOTH,
        r#"['"`)]\s*(?:order|group)\s+by\s+\d|\d\s+order\s+by\s+\d+\s*(?:--|#|$)|\bhaving\s+\d+\s*[=<>]"#,
    ),
    pattern("sql-conditional-comment", Sql, 5, BOTH, r"/\*!\d*\s*\w"),
    pattern(
        "sql-concat",
        Sql,
        3,
        QUERY,
        r#"'\s*(?:\|\||\+)\s*'|\b(?:concat|char|chr|unhex|hex|group_concat)\s*\(\s*(?:0x|\d|')"#,
    ),
    pattern("sql-hex", Sql, 2, QUERY, r"[=,(\s]0x[0-9a-f]{8}"),
    pattern(
        "nosql-operator",
        Sql,
        5,
        QUERY,
        r#"\[\$(?:ne|eq|gt|gte|lt|lte|regex|where|in|nin|exists|not|or|and|expr)\]|[{,]\s*['"]?\$(?:ne|gt|gte|lt|lte|regex|where|nin|exists|or|expr)\b['"]?\s*:"#,
    ),
    // -- Cross-site scripting.
    pattern("xss-script", Xss, 5, BOTH, r"<\s*/?\s*script\b"),
    apart("xss-handler", Xss, 5, BOTH | HEADERS, r#"<[a-z!/][^>]*[\s/"'`]on[a-z]{3}[a-z]*\s*="#),
    apart(
        "xss-tag",
        Xss,
        5,
        BOTH,
        r"<\s*/?\s*(?:iframe|object|embed|applet|base|frameset|svg|math|isindex|meta|link|form|style|template|xml|xss|animate|set|bgsound|layer|portal)\b[^>]*(?:[\s/]|>|$)",
    ),
    apart(
        "xss-image",
        Xss,
        4,
        BOTH,
        r"<\s*(?:img|image|video|audio|input|source|button)\b[^>]*(?:src|href|formaction|poster|srcset|action)\s*=",
    ),
    pattern(
        "xss-attribute",
        Xss,
        5,
        BOTH,
        r#"["'`][\s/]*(?:[\w-]+(?:\s*=\s*\w*)?[\s/]+)?on(?:error|load|click|dblclick|mouse[a-z]+|focus[a-z]*|blur|key[a-z]+|toggle|begin|start|animation[a-z]+|transition[a-z]+|pointer[a-z]+|submit|change|input|select|drag[a-z]*|resize|scroll|wheel|hashchange|message|pageshow|popstate)\s*="#,
    ),
    pattern(
        "xss-uri",
        Xss,
        5,
        BOTH,
        r"(?:j\s?a\s?v\s?a\s?|v\s?b\s?|live)s\s?c\s?r\s?i\s?p\s?t\s?:\s?(?:/[/*]|[\w.$\[\]'`]*\s?[(`=\\]|%)",
    ),
    pattern(
        "xss-data",
        Xss,
        5,
        BOTH,
        r"\bdata\s?:\s?(?:text/html|application/xhtml|image/svg|text/javascript|application/javascript)",
    ),
    pattern(
        "xss-break-out",
        Xss,
        5,
        BOTH,
        r#"["'`)\]}]\s*[-+*/;,^|&]+\s*(?:window\.|self\.|top\.)?(?:alert|confirm|prompt|eval|print|fetch|import|settimeout|document\.\w+)\s*[(`=]"#,
    ),
    pattern(
        "xss-call",
        Xss,
        2,
        BOTH,
        r"\b(?:alert|confirm|prompt|eval)\s*[(`]|\b(?:settimeout|setinterval|function)\s*\(\s*['\x22`]",
    ),
    pattern(
        "xss-document",
        Xss,
        3,
        BOTH,
        r"\bdocument\s?\.\s?(?:cookie|write(?:ln)?|location|domain)\b|\b(?:window|self|top|globalthis)\s?\[\s?['\x22]|\blocalstorage\.getitem\b",
    ),
    pattern(
        "xss-obfuscation",
        Xss,
        5,
        BOTH,
        r"\bstring\s?\.\s?fromcharcode\s?\(|\batob\s?\(\s?['\x22`]|\\u003c|\\x3c\s?(?:script|img|svg|iframe)|-moz-binding\s*:|\bexpression\s?\(\s?\w+\s?[.(]|\[\]\[\(!\[\]",
    ),
    // -- Traversal, and files that nobody should ask for.
    pattern("traversal-path", Traversal, 5, PATH, r"(?:^|[\\/;])\.\.(?:[\\/;]|$)"),
    pattern("traversal-deep", Traversal, 5, QUERY, r"(?:\.\.[\\/]+){2}|\.{3}\.?[\\/]{2}|\.\.;[\\/]|\.\.\\"),
    pattern("traversal-up", Traversal, 2, QUERY, r"^\.\.[\\/]"),
    apart(
        "traversal-system",
        Traversal,
        5,
        BOTH,
        r"^[^\s]*(?:etc[\\/]+(?:passwd|shadow|group|gshadow|sudoers|issue|crontab|hosts|nginx|apache2|httpd|ssh)\b|proc[\\/]+(?:self|version|cmdline|cpuinfo|\d+)\b|windows[\\/]+(?:system32|win\.ini|system\.ini)|boot\.ini|win\.ini\b|winnt[\\/]|var[\\/]+log[\\/]+\w|root[\\/]+\.)",
    ),
    pattern(
        "traversal-secret",
        Traversal,
        5,
        BOTH,
        r"(?:web-inf|meta-inf)[\\/]|\.ssh[\\/]|\bid_rsa\b|\.aws[\\/]+credentials|wp-config\.php|\.git[\\/]+(?:config|head)\b|\.kube[\\/]+config",
    ),
    pattern(
        "traversal-hidden",
        Traversal,
        5,
        PATH,
        r"/\.(?:git|svn|hg|bzr|env|htaccess|htpasswd|ds_store|aws|ssh|docker|npmrc|pypirc|netrc|bash_history|bashrc|kube|vscode|idea)(?:[/.~]|$)",
    ),
    // -- Shell.
    pattern(
        "shell-command",
        Shell,
        5,
        BOTH,
        r#"(?:[;|&`\n]|\$\()\s*(?:/(?:usr/)?s?bin/)?(?:cat|ls|id|head|tail|find|type|dir|rm|cp|mv|echo|ping|nc|ncat|netcat|sh|python[23]?|perl|php|ruby|node|curl|wget|nslookup|dig|sleep|kill|chmod|chown|touch|tee|awk|sed|grep|bash|zsh|ksh|telnet|ssh|scp|tftp|ftp|base64|env|ps|uname|net|cmd(?:\.exe)?|powershell(?:\.exe)?|xp_cmdshell|mkfifo|socat)(?:\s*[<>]\s*[\w/.&$]|\s+(?:--?\w|\.{0,2}/|\.\s*(?:$|[;|&-])|[$~"'<>*\\{`]|\d+\s*(?:$|[;|&`)#])|\d+\.\d+\.|https?:|user\b|\w+\.\w+(?:/|$)))"#,
    ),
    pattern(
        "shell-simple",
        Shell,
        5,
        BOTH,
        r"(?:[;|&\n]|\$\()\s*(?:/(?:usr/)?s?bin/)?(?:whoami|uname|ifconfig|ipconfig|netstat|systeminfo|tasklist|printenv|id\s*[;|&`)#]|ls\s*[;|&`)#]|pwd\s*[;|&`)#])(?:$|[\s;|&`)#])",
    ),
    pattern(
        "shell-weak",
        Shell,
        3,
        QUERY,
        r"(?:[;\n]|\|\||&&|\$\()\s*(?:id|ls|pwd|env|dir|ps|hostname|set)\s*(?:$|[;|&`)#])",
    ),
    apart(
        "shell-substitution",
        Shell,
        5,
        BOTH,
        r"\$\(\s*(?:/|cat|ls|id|whoami|uname|curl|wget|nslookup|dig|sleep|ping|echo|printf|bash|sh|python|perl|base64|env|hostname)\b|\$\(\s*<|\{\s*(?:cat|ls|curl|wget|nc|bash|sh|ping|id|echo|uname),[^{}]*\}|`\s*(?:whoami|uname|id|cat|curl|wget|nslookup|sleep|ping)\b[^`]*`",
    ),
    pattern(
        "shell-variable",
        Shell,
        5,
        BOTH,
        r"\$\{?(?:ifs|path|home|shell|pwd)\b[}%:\d\[]|\$ifs\b|/dev/(?:tcp|udp)/|>\s*/(?:tmp|dev|var|etc|www)/|\b(?:bash|sh)\s+-i\b",
    ),
    pattern(
        "shell-interpreter",
        Shell,
        4,
        QUERY,
        r"\b(?:bash|zsh|sh)\s+-c\s|\bpowershell(?:\.exe)?\s+-\w|\bcmd(?:\.exe)?\s*/[ck]\s|\bnc\s+-[elv]|\bpython[23]?\s+-c\s|\bperl\s+-e\s|/bin/(?:ba|z|k|c|da)?sh\b",
    ),
    apart("shell-shock", Shell, 5, BOTH | HEADERS, r"\(\s*\)\s*\{[^}]*\}\s*;"),
    pattern(
        "shell-php",
        Shell,
        5,
        BOTH,
        r"<\?(?:php\b|=)|\b(?:system|shell_exec|passthru|popen|proc_open|pcntl_exec|create_function)\s*\(\s*['\x22$]|\b(?:exec|assert|eval)\s*\(\s*(?:\$_|base64_decode|gzinflate|str_rot13)|\ballow_url_include\s*=|\bauto_prepend_file\s*=",
    ),
    // -- Expressions that servers evaluate.
    apart(
        "expression-jndi",
        Expression,
        5,
        BOTH | HEADERS,
        r"\$\{[^}]*\bjndi\s*:|\$\{\s*(?:(?:lower|upper|env|sys|java|main|ctx|bundle|k8s|date|base64|docker)\s*:|:*:-)",
    ),
    apart("expression-default", Expression, 3, BOTH | HEADERS, r"\$\{[^}]*:-[^}]*\}"),
    apart(
        "expression-template",
        Expression,
        5,
        BOTH,
        r"\{\{[^}]*(?:\d+\s*\*\s*\d|__\w+__|\bconfig\b|\bself\.|\brequest\.|constructor|\bcycler\b|\blipsum\b|\|\s*(?:safe|attr|filter|map|system)\b|\$on\b|_self\b)|\{%\s*(?:set|import|include|for|if)\b|<%=?\s*[\w.]+\s*[*(.]|#\{\s*(?:\d+\s*\*|\w+\.\w+\()|\*\{[^}]*(?:t\(|\d\s*\*)",
    ),
    apart(
        "expression-java",
        Expression,
        5,
        BOTH | HEADERS,
        r"[%$#]\{[^}]*(?:@java|#context|#_memberaccess|#request|\bt\s*\(|getruntime|processbuilder|\d+\s*\*\s*\d+)|\bjava\.lang\.(?:runtime|processbuilder|system|class)\b|\bclass\.module\.classloader\b|\(#\w+\s*=|\bognl\.",
    ),
    pattern(
        "expression-prototype",
        Expression,
        5,
        QUERY,
        r"__proto__|\bconstructor(?:\.|\[\s?['\x22]?)prototype\b|\b__(?:class|globals|builtins|subclasses|mro|import)__",
    ),
    pattern(
        "expression-object",
        Expression,
        5,
        QUERY,
        r#"\b[oc]:\d+:"[a-z_\\]\w*":\d+:\{|^ro0ab[a-z0-9+/ ]|^(?:\x80\x04|gasv)|!!(?:python|javax|com\.sun)[/.]"#,
    ),
    apart(
        "expression-xml",
        Expression,
        5,
        QUERY,
        r"<!(?:entity|doctype)\b|<\?xml[^>]*\?>|<!\[cdata\[|\bxmlns:xi\s*=",
    ),
    pattern(
        "expression-include",
        Expression,
        5,
        BOTH,
        r"<!--\s*#\s*(?:exec|include|echo|config|printenv)\b|<esi:\w|<xsl:",
    ),
    // -- Requests that a server shall make.
    pattern(
        "request-scheme",
        Request,
        5,
        QUERY,
        r"(?:^|[\s\x22'(=])(?:gopher|dict|ldaps?|tftp|jar|netdoc|phar|expect|php|zip|zlib|glob|rar|ogg|ssh2|compress\.\w+)://|^file:/|^(?:php|data|expect):(?:filter|input|//)",
    ),
    pattern(
        "request-metadata",
        Request,
        5,
        QUERY,
        r"\b169\.254\.169\.254\b|\bmetadata\.google\.internal\b|\b100\.100\.100\.200\b|fd00:ec2::254|/latest/(?:meta-data|user-data|dynamic)\b|\b0x(?:a9fea9fe|7f000001)\b|//(?:2852039166|2130706433)\b",
    ),
    apart(
        "request-local",
        Request,
        3,
        QUERY,
        r"^(?:https?:)?//(?:[^/@]*@)?(?:127\.\d|localhost\b|0\.0\.0\.0|\[(?:::1?|::ffff:[\d.]+)\]|0x7f|0177\.|10\.\d+\.\d|192\.168\.\d|172\.(?:1[6-9]|2\d|3[01])\.\d)",
    ),
    // -- What breaks protocols.
    apart(
        "protocol-split",
        Protocol,
        5,
        BOTH,
        r"\n\s?(?:set-cookie|location|content-(?:type|length|encoding|security-policy)|transfer-encoding|access-control-\w+|x-[\w-]+|refresh|host|connection)\s?:|\nhttp/\d|\b(?:get|post|put|head)\s/\S*\shttp/1",
    ),
    // -- Tools that look for holes.
    pattern(
        "scanner-agent",
        Scanner,
        5,
        AGENT,
        r"sqlmap|nikto|nessus|openvas|acunetix|netsparker|invicti|\bw3af|dirbuster|gobuster|feroxbuster|\bwfuzz|\bffuf\b|fuzz faster|nuclei|masscan|\bzgrab|zmeu|morfeus|havij|wpscan|joomscan|arachni|jaeles|whatweb|skipfish|fimap|thc-hydra|\(hydra\)|burpsuite|burp collaborator|zaproxy|owasp[ _-]zap|commix|xsstrike|dalfox|jbrofuzz|\bpangolin\b|webinspect|appscan|nmap scripting|dirsearch|httprobe|\bxsser\b|brutus/|cgichk|grendel-scan|n-stealth|webshag|black ?widow|\bl9explore|leakix|interactsh|project ?discovery|detectify|whatwaf",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_begin_with_something_known() {
        let names: BTreeSet<&str> = PATTERNS.iter().map(|pattern| pattern.id).collect();
        assert_eq!(names.len(), PATTERNS.len());
        assert!(PATTERNS.iter().all(|pattern| pattern.inputs != 0 && (1..=5).contains(&pattern.score)));
    }

    const MANUAL: &str = include_str!("../../../../docs/gates.md");

    #[test]
    fn the_manual_lists_every_pattern() {
        for pattern in PATTERNS {
            assert!(MANUAL.contains(&format!("`{}`", pattern.id)), "{}", pattern.id);
        }
    }
}
