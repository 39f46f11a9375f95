//! `file:` - a list on this machine, or on a share that is mounted here.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{Broken, MAX_ANSWER};

pub(super) fn fetch(path: &Path) -> Result<Vec<u8>, Broken> {
    // Looked at before it is opened: opening a named pipe would wait for somebody to write to it.
    let metadata = std::fs::metadata(path).map_err(Broken::Unreadable)?;
    if !metadata.is_file() {
        return Err(Broken::NotAFile);
    }
    read(path).map_err(Broken::Unreadable).and_then(super::within_limit)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_ANSWER + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("team.csv");
        assert!(matches!(fetch(&path), Err(Broken::Unreadable(_))));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(fetch(&path).unwrap(), b"x");
        File::options().write(true).open(&path).unwrap().set_len(MAX_ANSWER + 1).unwrap();
        assert!(matches!(fetch(&path), Err(Broken::TooLarge(_))));
        assert!(matches!(fetch(dir.path()), Err(Broken::NotAFile)));
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(fetch(&pipe), Err(Broken::NotAFile)));
    }
}
