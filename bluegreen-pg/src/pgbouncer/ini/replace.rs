//! Putting a new text in the file's place: beside it first, then in one step.

use super::{GateError, Ini};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

impl Ini {
    /// Writes the new text beside the file. It is to be [synced](Staged::sync) before it is [swapped in](Self::swap).
    pub(in crate::pgbouncer) fn stage(&self, text: &[u8]) -> Result<Staged, GateError> {
        let mut file = self.prepare().map_err(|source| self.error("written beside", source))?;
        let written = file.write_all(text);
        written.map_err(|source| self.error("written beside", source))?;
        Ok(Staged(file))
    }

    /// Puts what was [staged](Self::stage) in the file's place: whoever opens it sees the old text or the new.
    pub(in crate::pgbouncer) fn swap(&self) -> Result<(), GateError> {
        std::fs::rename(self.temporary(), &self.path).map_err(|source| self.error("replaced", source))
    }

    /// Makes a [swap](Self::swap) survive a crash of the machine.
    pub(in crate::pgbouncer) fn sync(&self) -> Result<(), GateError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| self.error("made durable", source))
    }

    /// Takes away what was staged and not swapped in, by this process or one before it.
    pub(in crate::pgbouncer) fn unstage(&self) -> Result<(), GateError> {
        match std::fs::remove_file(self.temporary()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.error("cleaned up beside", source)),
            _ => Ok(()),
        }
    }

    /// Whether [`stage`](Self::stage) would be allowed: makes the temporary file and takes it away again.
    pub(in crate::pgbouncer) fn replaceable(&self) -> Result<(), GateError> {
        let tried = self.prepare();
        tried.map_err(|source| self.error("replaced", source))?;
        self.unstage()
    }

    /// Always the same name: what a killed process left is overwritten by the next. Each database has its own, for the gates
    /// of several may share the file.
    fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.bluegreen", plain(&self.database)));
        self.path.with_file_name(name)
    }

    fn prepare(&self) -> io::Result<File> {
        let temporary = self.temporary();
        let metadata = std::fs::metadata(&self.path)?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let ours = file.metadata()?;
        if (ours.uid(), ours.gid()) != (metadata.uid(), metadata.gid()) {
            chown(&temporary, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(metadata.permissions())?;
        Ok(file)
    }
}

/// A database's name as a part of a file's, without a dot; no two are alike: what is not plain is written by its bytes.
fn plain(database: &str) -> String {
    let written = |byte: u8| match byte {
        b'-' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    database.bytes().map(written).collect()
}

/// A new text that waits beside its file.
#[derive(Debug)]
pub(in crate::pgbouncer) struct Staged(File);

impl Staged {
    /// Makes the text durable.
    pub(in crate::pgbouncer) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}
