//! The few file operations a journal rests on, behind a seam so that a failing disk can be tried.

use crate::error::{Error, Kind};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A file that grows at its end and can be cut.
pub(super) trait Disk: Send {
    fn read(&mut self) -> io::Result<Vec<u8>>;
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// The length of what is at the path now; none when that is another file, or nothing.
    fn len_at_path(&self) -> io::Result<Option<u64>>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    pub(super) fn new(file: File, path: &Path) -> Self {
        Self {
            file,
            path: path.to_owned(),
        }
    }
}

impl Disk for RealFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len_at_path(&self) -> io::Result<Option<u64>> {
        match std::fs::metadata(&self.path) {
            Ok(there) => Ok(same_file(&self.file.metadata()?, &there).then_some(there.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(unix)]
fn same_file(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    a.created().ok() == b.created().ok()
}

/// Options for a file that only its owner may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a new name in the folder durable.
pub(super) fn sync_folder(of: &Path) -> io::Result<()> {
    let folder = match of.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Elsewhere a folder cannot be opened, and its names are durable with the file.
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

/// `path` with something appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// An I/O error as ours.
pub(super) fn failed(operation: &str, path: &Path, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted => Kind::Unavailable,
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Kind::InvalidInput,
        _ => Kind::Unexpected,
    };
    let mend = match source.kind() {
        io::ErrorKind::NotFound => ": the folder it is in must be there",
        io::ErrorKind::PermissionDenied => ": be the user who began it, and one who may write in its folder",
        io::ErrorKind::ReadOnlyFilesystem => ": keep it on a disk that can be written",
        io::ErrorKind::IsADirectory => ": name a file, not a folder",
        io::ErrorKind::NotADirectory => ": a part of its path is a file and no folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room",
        _ => "",
    };
    Error::new(kind, operation, format!("{}: {source}{mend}", path.display())).because(source)
}
