//! Folders for servers: temporary ones that their user owns, and a cache between runs that several processes share.

use super::process::ServerUser;
use nix::unistd::geteuid;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A folder that is removed when dropped.
#[derive(Debug)]
pub struct TempFolder(tempfile::TempDir);

impl TempFolder {
    /// A new one, owned by the user the server will run as.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(prefix: &str, user: ServerUser) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir()?;
        user.own(folder.path())?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The folder of `name` in the cache, made by `make` if it is not there. Of several processes that ask at once one makes it
/// and the others wait; one that dies while making it leaves nothing that passes for whole.
pub(super) fn cached(name: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let uid = geteuid().as_raw();
    let cache = std::env::temp_dir().join(format!("bluegreen-testkit-{uid}"));
    match DirBuilder::new().mode(0o755).create(&cache) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The name can be guessed: what somebody else put there is not ours to run.
    let metadata = std::fs::symlink_metadata(&cache)?;
    if !metadata.is_dir() || metadata.uid() != uid {
        return Err(io::Error::other(format!(
            "{} belongs to somebody else: remove it",
            cache.display()
        )));
    }
    let whole = cache.join(name);
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !whole.exists() {
        let unfinished = cache.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        DirBuilder::new().mode(0o700).create(&unfinished)?;
        make(&unfinished)?;
        std::fs::rename(&unfinished, &whole)?;
    }
    Ok(whole)
}
