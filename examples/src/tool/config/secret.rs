//! What must never be shown, and where it may come from: the file itself, an environment variable, a file of its own.

use super::Environment;
use super::check::{Fault, Key};
use std::fmt;
use std::path::Path;

/// A text that no `Debug`, log or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Guards a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever must send it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The three keys that may hold one secret.
pub(super) struct Sources {
    pub(super) name: &'static str,
    pub(super) plain: Key<String>,
    pub(super) env: Key<String>,
    pub(super) file: Key<String>,
}

impl Sources {
    /// The secret, with where it was asked for; none when none of the keys is there.
    pub(super) fn find(self, folder: &Path, environment: Environment<'_>) -> Result<Key<Secret>, Fault> {
        let Self { name, plain, env, file } = self;
        let given = [&plain, &env, &file].into_iter().flatten().collect::<Vec<_>>();
        if let [_, second, ..] = given.as_slice() {
            return Err(Fault::at(
                second.span(),
                format!("{name} is given twice: expected one of {name}, {name}_env and {name}_file"),
            ));
        }
        let (at, text) = if let Some(plain) = plain {
            (plain.span(), plain.into_inner())
        } else if let Some(env) = env {
            let variable = env.get_ref();
            // What is no variable's name may be the secret itself, put under the wrong key.
            if variable.is_empty() || !variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let what = format!(
                    "{name}_env holds no variable's name: expected one such as \"{}\"",
                    name.to_uppercase()
                );
                return Err(Fault::at(env.span(), what));
            }
            // Nor is a name repeated that is not set: a secret may look like one.
            let text = environment(variable).ok_or_else(|| {
                let what = format!(
                    "{name}_env: the environment variable that is named here is not set: set it to the {name} and start again"
                );
                Fault::at(env.span(), what)
            })?;
            (env.span(), text)
        } else if let Some(file) = file {
            if file.get_ref().contains("://") {
                let what = format!("{name}_file holds no path: expected that of a file with the {name} in it");
                return Err(Fault::at(file.span(), what));
            }
            let path = folder.join(file.get_ref());
            let text = std::fs::read_to_string(&path).map_err(|e| {
                let what = format!("{name}_file: {} cannot be read: {e}", path.display());
                Fault::at(file.span(), what)
            })?;
            // An editor ends a file with a line break that is no part of the secret.
            (file.span(), text.trim_end_matches(['\r', '\n']).to_owned())
        } else {
            return Ok(None);
        };
        if text.is_empty() {
            return Err(Fault::at(at, format!("{name} is empty")));
        }
        Ok(Some(toml::Spanned::new(at, Secret(text))))
    }
}
