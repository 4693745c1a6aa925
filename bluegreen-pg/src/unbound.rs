//! Roles that a read-only database does not bind: their own setting overrides the database's.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::ident;
use crate::writers::services_own;
use bluegreen_core::{Kind, Result};

/// A role that a read-only database does not bind: its own setting overrides the database's.
#[derive(Debug)]
pub(crate) struct Exception {
    role: String,
    /// Where the setting holds, if not everywhere.
    database: Option<String>,
}

impl std::fmt::Display for Exception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ident(&self.role))
    }
}

impl Exception {
    /// The command that binds it.
    pub(crate) fn mend(&self) -> String {
        let place = self
            .database
            .as_ref()
            .map(|name| format!(" IN DATABASE {}", ident(name)))
            .unwrap_or_default();
        format!("ALTER ROLE {self}{place} RESET default_transaction_read_only;")
    }
}

/// The roles that a read-only database would not bind. A managed service's own has such a setting as it comes; who is no superuser
/// can change nothing about it, and it is no application's.
pub(crate) async fn exceptions(session: &Session) -> Result<Vec<Exception>> {
    let rows = session
        .query(
            concat!(
                "SELECT coalesce(r.rolname, '?')::text, d.datname::text FROM pg_db_role_setting s \
             LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE s.setrole <> 0 AND (s.setdatabase = 0 OR d.datname = current_database()) \
             AND EXISTS (SELECT FROM unnest(s.setconfig) AS c WHERE c ~* '^default_transaction_read_only=' \
             AND c !~* '=(on|t|tr|tru|true|y|ye|yes|1)$') \
             AND (current_setting('is_superuser') = 'on' OR r.rolname IS NULL OR r.rolname NOT IN ",
                services_own!(),
                ") ORDER BY 1, 2"
            ),
            &[],
        )
        .await
        .doing("look for roles that are not bound")?;
    Ok(rows
        .iter()
        .map(|row| Exception {
            role: row.get(0),
            database: row.get(1),
        })
        .collect())
}

/// Refuses a role that a read-only database would not bind: it could write where nobody may.
pub(crate) async fn no_exceptions(session: &Session) -> Result<()> {
    match exceptions(session).await?.first() {
        None => Ok(()),
        Some(free) => Err(fault(
            Kind::Conflict,
            "look for roles that are not bound",
            format!(
                "the role {} has default_transaction_read_only = off as its own setting, so a read-only database would not stop \
                 it: {}",
                free.role,
                free.mend().trim_end_matches(';')
            ),
        )),
    }
}
