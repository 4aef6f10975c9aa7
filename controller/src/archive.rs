//! Files in one: tar, as every machine unpacks it.
//!
//! Only plain files with short relative names, mode 0600. What is read back is checked as if a stranger had written it: names stay
//! inside, kinds are files, sizes have a limit.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Component, Path},
};

/// Largest file in an archive: a journal with a hundred thousand purges is 20 MB.
pub const FILE_BYTES_MAX: u64 = 4 << 30;
/// Files in an archive: a key per site and node, and some.
pub const FILES_MAX: usize = 100_000;

/// Adds a file.
///
/// # Errors
/// Those of writing.
pub fn add(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: u64,
    content: impl Read,
    modified: u64,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(modified);
    archive.append_data(&mut header, name, content)
}

/// The files of a directory, without what lies in directories in it.
///
/// # Errors
/// Those of reading.
pub fn pack_dir(dir: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_file() {
            let content = fs::read(entry.path())?;
            add(&mut archive, &entry.file_name().to_string_lossy(), content.len() as u64, &content[..], 0)?;
        }
    }
    archive.into_inner()
}

/// Reads an archive, handing each file to `take` with its name and size.
///
/// # Errors
/// Those of reading and of `take`; `InvalidData` for anything but plain files with relative names, and beyond the limits.
pub fn read(
    from: impl Read,
    mut take: impl FnMut(&Path, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut archive = tar::Archive::new(from);
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let (name, bytes) = (entry.path()?.into_owned(), entry.size());
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || name.as_os_str().is_empty() || !entry.header().entry_type().is_file() {
            return Err(wrong(format!("{} is no plain file inside", name.display())));
        }
        if bytes > FILE_BYTES_MAX || count >= FILES_MAX {
            return Err(wrong(format!(
                "{}: more than {FILE_BYTES_MAX} bytes or {FILES_MAX} files",
                name.display()
            )));
        }
        take(&name, bytes, &mut entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back_and_nothing_leaves_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("b"), "two").unwrap();
        fs::write(temp.path().join("a"), "one").unwrap();
        fs::create_dir(temp.path().join("sub")).unwrap();
        let packed = pack_dir(temp.path()).unwrap();
        let mut seen = Vec::new();
        read(&packed[..], |name, bytes, content| {
            let mut text = String::new();
            content.read_to_string(&mut text)?;
            assert_eq!(bytes, text.len() as u64);
            seen.push((name.display().to_string(), text));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [("a".to_owned(), "one".to_owned()), ("b".to_owned(), "two".to_owned())]);
        for evil in ["../x", "/etc/x", "a/../../x"] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.as_gnu_mut().unwrap().name[..evil.len()].copy_from_slice(evil.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"x"[..]).unwrap();
            let evil = archive.into_inner().unwrap();
            assert!(read(&evil[..], |_, _, _| panic!("it is not handed on")).is_err());
        }
        assert!(read(&packed[..700], |_, _, content| io::copy(content, &mut io::sink()).map(drop)).is_err());
    }
}
