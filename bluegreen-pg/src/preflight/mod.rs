//! What would make the migration fail or harm somebody, looked for before it starts. Changes nothing. A file per family.

mod activity;
mod address;
mod capacity;
mod checks;
mod columns;
mod database;
mod defaults;
mod event_triggers;
mod extensions;
mod extras;
mod fence;
mod identity;
pub(crate) mod ids;
mod journal;
mod leftovers;
mod logins;
mod own_schema;
mod owners;
mod policies;
mod reach;
mod rights;
mod roles;
mod sequences;
mod sessions;
mod settings;
mod standbys;
mod superuser;
mod system;
mod tables;
mod target;
mod text;
mod versions;
mod wal;

use crate::connect::Session;
use crate::marker::{self, Stage};
use crate::replicator::Context;
use bluegreen_core::{Color, Finding, Result, Severity};
use futures::future::{BoxFuture, join};
use std::fmt::Display;
use tokio_postgres::types::ToSql;

/// How many names a finding shows before it only counts.
const SHOWN: usize = 10;

/// Some looks open tables: who has one locked for hours (`VACUUM FULL`) is not waited for.
const NOT_LONG: &str = "SET lock_timeout = '5s'";

/// Everything that was seen; the worst first. What could not be looked at is a finding too.
pub(crate) async fn run(context: &Context) -> Vec<Finding> {
    let settings = &context.settings;
    let (blue, green) = join(settings.connect(Color::Blue), settings.connect(Color::Green)).await;
    let mut findings = Vec::new();
    for (color, session) in [(Color::Blue, &blue), (Color::Green, &green)] {
        if let Err(error) = session {
            findings.push(reach::unreachable(settings, color, error));
        }
    }
    if let (Ok(blue), Ok(green)) = (blue, green) {
        for session in [&blue, &green] {
            // Where it fails, so does all that follows, and says so.
            let _set = session.batch_execute(NOT_LONG).await;
        }
        findings.extend(look(context, &blue, &green).await);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

async fn look(context: &Context, blue: &Session, green: &Session) -> Vec<Finding> {
    let mut look = Look {
        context,
        blue,
        green,
        ours: false,
        is_one_server: false,
        wal: None,
        findings: Vec::new(),
    };
    let stage = marker::stage(green, &context.settings.name).await;
    look.ours = matches!(stage, Ok(Stage::Copying | Stage::Ready));
    type Check = for<'a> fn(&'a mut Look<'_>) -> BoxFuture<'a, Result<()>>;
    let checks: &[(&str, Check)] = &[
        ("blue's log", |look| Box::pin(wal::begin(look))),
        ("the versions", |look| Box::pin(versions::check(look))),
        ("how text is written and sorted", |look| Box::pin(text::check(look))),
        ("how the servers reach each other", |look| Box::pin(reach::check(look))),
        ("what stands at the addresses", |look| Box::pin(address::check(look))),
        ("the servers' settings", |look| Box::pin(capacity::check(look))),
        ("synchronous standbys", |look| Box::pin(standbys::check(look))),
        ("the servers' defaults", |look| Box::pin(defaults::check(look))),
        ("room for sessions", |look| Box::pin(sessions::check(look))),
        ("our rights", |look| Box::pin(rights::check(look))),
        ("the owners", |look| Box::pin(owners::check(look))),
        ("what only superusers make", |look| Box::pin(superuser::check(look))),
        ("the roles", |look| Box::pin(roles::check(look))),
        ("whom the fence stops", |look| Box::pin(fence::check(look))),
        ("rights on what is the server's", |look| Box::pin(system::check(look))),
        ("what identifies rows", |look| Box::pin(identity::check(look))),
        ("blue's tables", |look| Box::pin(tables::check(look))),
        ("their columns and indexes", |look| Box::pin(columns::check(look))),
        ("checks that read tables", |look| Box::pin(checks::check(look))),
        ("row policies", |look| Box::pin(policies::check(look))),
        ("what does not travel", |look| Box::pin(extras::check(look))),
        ("the event triggers", |look| Box::pin(event_triggers::check(look))),
        ("the extensions", |look| Box::pin(extensions::check(look))),
        ("the sequences", |look| Box::pin(sequences::check(look))),
        ("green's database", |look| Box::pin(target::check(look))),
        ("leftovers", |look| Box::pin(leftovers::check(look))),
        ("where the journal is", |look| Box::pin(journal::check(look))),
        ("running transactions", |look| Box::pin(activity::check(look))),
        ("blue's log and the disks", |look| Box::pin(wal::check(look))),
    ];
    for (what, check) in checks {
        if let Err(error) = check(&mut look).await {
            look.blocks(
                "not-looked-at",
                format!("{what} could not be looked at: {error}"),
                "what was not seen is not known to be well",
                "mend what the error names and run the preflight again",
            );
        }
    }
    look.findings
}

/// What every check gets: both sides, and where to say what it saw.
struct Look<'a> {
    context: &'a Context,
    blue: &'a Session,
    green: &'a Session,
    /// Whether green holds this very migration's copy: then what is there is no surprise.
    ours: bool,
    /// Whether the two databases are of one server.
    is_one_server: bool,
    /// Where blue's log was when the look began.
    wal: Option<wal::Sample>,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn side(&self, color: Color) -> &Session {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }

    fn dbname(&self, color: Color) -> String {
        crate::ident::ident(self.context.settings.server(color).conninfo().dbname())
    }

    fn blocks(&mut self, id: &str, seen: impl Into<String>, why: &str, mend: impl Into<String>) {
        self.found(Severity::Blocking, id, seen, why, mend);
    }

    fn warns(&mut self, id: &str, seen: impl Into<String>, why: &str, mend: impl Into<String>) {
        self.found(Severity::Warning, id, seen, why, mend);
    }

    fn notes(&mut self, id: &str, seen: impl Into<String>, why: &str, mend: impl Into<String>) {
        self.found(Severity::Note, id, seen, why, mend);
    }

    fn found(&mut self, severity: Severity, id: &str, seen: impl Into<String>, why: &str, mend: impl Into<String>) {
        debug_assert!(
            ids::known(id, severity),
            "{id} ({severity}) is not in the list of findings"
        );
        self.findings.push(Finding {
            id: id.to_owned(),
            severity,
            seen: seen.into(),
            why: why.to_owned(),
            mend: mend.into(),
        });
    }
}

/// The first column of every row; the query gives text.
async fn names(session: &Session, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>> {
    use crate::error::Doing;
    let rows = session.query(sql, params).await.doing("read the catalogue")?;
    Ok(rows
        .iter()
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_default())
        .collect())
}

/// The first columns of every row, all text; an absent value is empty.
async fn texts<const N: usize>(session: &Session, sql: &str) -> Result<Vec<[String; N]>> {
    use crate::error::Doing;
    let rows = session.query(sql, &[]).await.doing("read the catalogue")?;
    let text = |row: &tokio_postgres::Row, column| row.get::<_, Option<String>>(column).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| std::array::from_fn(|column| text(row, column)))
        .collect())
}

/// `3 tables: a, b, c`
fn listed(what: &str, names: &[impl Display]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = match names.len() {
        1 => what.to_owned(),
        _ if what.ends_with('x') => format!("{what}es"),
        _ => format!("{what}s"),
    };
    format!("{} {what}: {}{more}", names.len(), shown.join(", "))
}

/// Commands, one for each, as far as they are shown.
fn commands(each: impl IntoIterator<Item = String>) -> String {
    let all: Vec<String> = each.into_iter().collect();
    let more = if all.len() > SHOWN {
        " -- and so on for the others"
    } else {
        ""
    };
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    format!("{}{more}", shown.join(" "))
}

/// What somebody made, in a query over `pg_class c` and `pg_namespace n`: not the system's, an extension's or ours. Of an extension's
/// tables those with the user's rows are the application's too (`catalog::APPLICATION`), and are made by the extension.
const OURS_NOT: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') \
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_count_and_are_cut() {
        assert_eq!(listed("index", &["a"]), "1 index: a");
        assert_eq!(listed("index", &["a", "b"]), "2 indexes: a, b");
        assert_eq!(listed("table", &["a", "b"]), "2 tables: a, b");
        let many: Vec<usize> = (1..=12).collect();
        assert_eq!(
            listed("table", &many),
            "12 tables: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more"
        );
    }
}
