//! Holds JSON against a schema of an OpenAPI 3.1 document: the words of JSON Schema that ours use.
//!
//! A word that is not known is an error, so that a schema never says more than is checked.

use serde_json::Value;

/// What is wrong, each with the place in the value; empty: nothing.
pub fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check(document, schema, value, "$", &mut out);
    out
}

/// Words that say something to people alone.
const WORDS_FOR_PEOPLE: [&str; 5] = ["description", "default", "contentMediaType", "example", "format"];

fn check(document: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let Some(words) = schema.as_object() else {
        return out.push(format!("{at}: {schema} is no schema"));
    };
    let mut bad = |what: String| out.push(format!("{at}: {what}; read {value}"));
    for (word, said) in words {
        match word.as_str() {
            "type" if !is_type(said, value) => bad(format!("expected {said}")),
            "enum" if !said.as_array().is_some_and(|all| all.contains(value)) => {
                bad(format!("expected one of {said}"))
            }
            "const" if said != value => bad(format!("expected {said}")),
            "minimum" if value.as_f64() < said.as_f64() => bad(format!("expected at least {said}")),
            "maximum" if value.is_number() && value.as_f64() > said.as_f64() => {
                bad(format!("expected at most {said}"))
            }
            "maxLength" if length(value) > said.as_u64() => bad(format!("longer than {said}")),
            "minItems" if value.is_array() && length(value) < said.as_u64() => {
                bad(format!("fewer than {said}"))
            }
            "maxItems" if value.is_array() && length(value) > said.as_u64() => {
                bad(format!("more than {said}"))
            }
            "type" | "enum" | "const" | "minimum" | "maximum" | "maxLength" | "minItems" | "maxItems" => {}
            "required" | "properties" | "additionalProperties" | "items" | "$ref" | "oneOf" | "anyOf" => {}
            word if WORDS_FOR_PEOPLE.contains(&word) => {}
            word => bad(format!("the schema says {word:?}, which is not checked")),
        }
    }
    parts(document, schema, value, at, out);
}

/// The words that lead to other schemas.
fn parts(document: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let found = name.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        match found {
            Some(found) => check(document, found, value, at, out),
            None => out.push(format!("{name} is not in the document")),
        }
    }
    for (word, exactly) in [("oneOf", true), ("anyOf", false)] {
        let Some(all) = schema[word].as_array() else { continue };
        let fitting = all.iter().filter(|schema| problems(document, schema, value).is_empty()).count();
        if fitting == 0 || (exactly && fitting > 1) {
            out.push(format!("{at}: fits {fitting} of {word}; read {value}"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(items) = schema.get("items") {
            check(document, items, item, &format!("{at}[{index}]"), out);
        }
    }
    let Some(members) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            out.push(format!("{at}: {name} is missing; read {value}"));
        }
    }
    for (name, member) in members {
        let at = format!("{at}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => check(document, schema, member, &at, out),
            (None, Some(Value::Bool(false))) => out.push(format!("{at}: not a member there is")),
            (None, Some(schema)) if schema.is_object() => check(document, schema, member, &at, out),
            (None, _) => {}
        }
    }
}

fn is_type(said: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    };
    match said {
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        name => name.as_str().is_some_and(is),
    }
}

fn length(value: &Value) -> Option<u64> {
    let length = value.as_array().map(Vec::len).or_else(|| Some(value.as_str()?.chars().count()))?;
    u64::try_from(length).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_says_is_checked() {
        let document =
            json!({ "components": { "schemas": { "Name": { "type": "string", "maxLength": 3 } } } });
        let name = json!({ "$ref": "#/components/schemas/Name" });
        let schema = json!({
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {
                "name": name, "ages": { "type": "array", "maxItems": 2, "items": { "type": "integer", "minimum": 0 } },
                "what": { "oneOf": [{ "const": "all" }, { "type": ["integer", "null"] }] },
            },
        });
        for good in [
            json!({ "name": "abc" }),
            json!({ "name": "a", "ages": [0, 1], "what": "all" }),
            json!({ "name": "a", "what": null }),
        ] {
            assert_eq!(problems(&document, &schema, &good), [""; 0]);
        }
        for bad in [
            json!([]),
            json!({}),
            json!({ "name": "abcd" }),
            json!({ "name": 1 }),
            json!({ "name": "a", "ages": [-1] }),
            json!({ "name": "a", "ages": [1, 2, 3] }),
            json!({ "name": "a", "what": "some" }),
            json!({ "name": "a", "more": 1 }),
        ] {
            assert_eq!(problems(&document, &schema, &bad).len(), 1, "{bad}");
        }
        assert_eq!(problems(&document, &json!({ "pattern": "x" }), &json!("x")).len(), 1);
    }
}
