//! The ini files of all instances: written beside before the pause, durable while the gate drains and writes are fenced,
//! swapped in the pause.

use super::error::GateError;
use super::ini::{Ini, Staged};
use super::{Shared, Upstream};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Held from the reading of a file to its swap: gates of several databases may share one, and none may undo what another did.
static REWRITING: Mutex<()> = Mutex::new(());

/// What was prepared and what is not durable yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    staged: Arc<Mutex<Vec<Prepared>>>,
    unsynced: Arc<Mutex<Vec<Ini>>>,
}

/// A file as it was read, where it is prepared to point, and the text for that.
#[derive(Debug)]
struct Prepared {
    from: Ini,
    to: Upstream,
    staged: Staged,
    durable: bool,
}

impl Shared {
    /// Prepares each file to point at the other side than it does now: in all likelihood that is what comes next.
    pub(super) fn stage(&self) -> Result<(), GateError> {
        let mut all = lock(&self.files.staged);
        all.clear();
        for path in self.inis() {
            let from = Ini::read(path, &self.database)?;
            let to = if from.upstream() == self.green {
                &self.blue
            } else {
                &self.green
            };
            if let Some(text) = from.pointed_at(to) {
                let (staged, to) = (from.stage(&text)?, to.clone());
                let durable = false;
                all.push(Prepared {
                    from,
                    to,
                    staged,
                    durable,
                });
            }
        }
        Ok(())
    }

    /// Makes what was prepared durable: slow, and so not waited for before the files are needed.
    pub(super) fn sync_staged(&self) -> Result<(), GateError> {
        for prepared in lock(&self.files.staged).iter_mut().filter(|prepared| !prepared.durable) {
            let synced = prepared.staged.sync();
            synced.map_err(|source| prepared.from.error("written beside", source))?;
            prepared.durable = true;
        }
        Ok(())
    }

    /// Points each file at `upstream`. A crash of the machine before [`sync`](Self::sync) may bring the old text back.
    pub(super) fn rewrite(&self, upstream: &Upstream) -> Result<(), GateError> {
        let mut staged = lock(&self.files.staged);
        let _alone = REWRITING.lock().unwrap_or_else(PoisonError::into_inner);
        for path in self.inis() {
            let ini = Ini::read(path, &self.database)?;
            let Some(text) = ini.pointed_at(upstream) else { continue };
            // Only what was made from this very text: somebody may have edited the file since.
            let same = |prepared: &Prepared| prepared.from == ini && prepared.to == *upstream && prepared.durable;
            match staged.iter().position(same) {
                Some(ready) => drop(staged.swap_remove(ready)),
                None => {
                    let synced = ini.stage(&text)?.sync();
                    synced.map_err(|source| ini.error("written beside", source))?;
                }
            }
            ini.swap()?;
            lock(&self.files.unsynced).push(ini);
        }
        staged.clear();
        Ok(())
    }

    /// Makes what was rewritten durable. What fails is tried again by the next call.
    pub(super) fn sync(&self) -> Result<(), GateError> {
        let mut unsynced = lock(&self.files.unsynced);
        while let Some(ini) = unsynced.last() {
            ini.sync()?;
            unsynced.pop();
        }
        Ok(())
    }

    /// Takes away what was prepared and not used, by this process or a killed one.
    pub(super) fn unstage(&self) -> Result<(), GateError> {
        lock(&self.files.staged).clear();
        self.inis()
            .into_iter()
            .try_for_each(|path| Ini::read(path, &self.database)?.unstage())
    }

    /// Several instances may read the same one.
    fn inis(&self) -> BTreeSet<&Path> {
        self.instances.iter().map(|instance| instance.ini.as_path()).collect()
    }

    /// Runs one of the above where it may block.
    pub(super) async fn files(
        &self,
        work: impl FnOnce(&Self) -> Result<(), GateError> + Send + 'static,
    ) -> Result<(), GateError> {
        let shared = self.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(GateError::ShutDown),
            },
        }
    }
}

// Every critical section is a push or a pop: a poisoned lock still holds a whole list.
fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
