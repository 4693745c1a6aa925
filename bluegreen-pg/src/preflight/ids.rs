//! Every id a finding of this crate can have, with its severities. `docs/preflight.md` publishes this list; the tests here keep
//! the two in step.

use bluegreen_core::Severity::{self, Blocking, Note, Warning};

const BLOCKS: &[Severity] = &[Blocking];
const WARNS: &[Severity] = &[Warning];
const NOTES: &[Severity] = &[Note];

/// The list, in the order of the families.
pub(crate) const IDS: &[(&str, &[Severity])] = &[
    // Reaching each other.
    ("blue-unreachable", BLOCKS),
    ("green-unreachable", BLOCKS),
    ("blue-unreachable-from-green", BLOCKS),
    ("green-unreachable-from-blue", BLOCKS),
    ("pooler", BLOCKS),
    ("balanced-address", BLOCKS),
    ("standby", BLOCKS),
    ("same-database", BLOCKS),
    ("same-server", WARNS),
    ("same-system-identifier", NOTES),
    ("not-looked-at", BLOCKS),
    // Versions and text.
    ("old-version", BLOCKS),
    ("old-minor", WARNS),
    ("older-target", BLOCKS),
    ("no-tools", BLOCKS),
    ("encoding", &[Blocking, Note]),
    ("collation", WARNS),
    ("collation-version", NOTES),
    ("collation-stale", WARNS),
    ("missing-collations", BLOCKS),
    ("missing-xml", BLOCKS),
    ("missing-compression", BLOCKS),
    ("money", BLOCKS),
    // Settings and room.
    ("wal-level", BLOCKS),
    ("output-plugin", BLOCKS),
    ("max-replication-slots", BLOCKS),
    ("max-active-replication-origins", BLOCKS),
    ("max-wal-senders", BLOCKS),
    ("max-logical-replication-workers", BLOCKS),
    ("max-worker-processes", BLOCKS),
    ("synchronous-mirror", BLOCKS),
    ("synchronous-standby-missing", BLOCKS),
    ("server-defaults", WARNS),
    ("less-room", WARNS),
    ("preload-libraries", &[Warning, Note]),
    ("max-connections", BLOCKS),
    ("role-connection-limit", BLOCKS),
    ("database-connection-limit", BLOCKS),
    ("max-locks-per-transaction", &[Blocking, Warning]),
    ("replication-timeout", WARNS),
    ("idle-slot-timeout", WARNS),
    ("unbounded-wal", NOTES),
    ("wal-headroom", &[Blocking, Warning, Note]),
    ("slot-keeps-little", WARNS),
    ("green-disk", &[Blocking, Warning, Note]),
    // Rights, roles, and what belongs to the database itself.
    ("right-replication", BLOCKS),
    ("right-owner", BLOCKS),
    ("right-signal", BLOCKS),
    ("right-stats", BLOCKS),
    ("right-tables", BLOCKS),
    ("right-schemas", BLOCKS),
    ("right-tablespaces", BLOCKS),
    ("right-sequences", BLOCKS),
    ("right-become-owner", BLOCKS),
    ("right-create-in-schema", BLOCKS),
    ("right-extension", BLOCKS),
    ("right-superuser-objects", BLOCKS),
    ("right-grantors", BLOCKS),
    ("blue-may-not-subscribe", BLOCKS),
    ("green-may-not-subscribe", BLOCKS),
    ("blue-needs-a-password", BLOCKS),
    ("green-needs-a-password", BLOCKS),
    ("row-security", BLOCKS),
    ("missing-roles", BLOCKS),
    ("missing-logins", &[Blocking, Warning, Note]),
    ("logins-without-password", &[Blocking, Warning]),
    ("login-passwords", NOTES),
    ("role-attributes", WARNS),
    ("database-settings", WARNS),
    ("database-grants", WARNS),
    ("system-rights", WARNS),
    ("not-bound-by-read-only", BLOCKS),
    ("superuser-sessions", WARNS),
    // Tables, columns, indexes.
    ("no-replica-identity", BLOCKS),
    ("generated-identity", BLOCKS),
    ("full-without-equality", BLOCKS),
    ("full-identity-on-large-table", WARNS),
    ("unlogged-tables", WARNS),
    ("temporary-tables", NOTES),
    ("partitioned-tables", NOTES),
    ("own-schema-taken", BLOCKS),
    ("triggers-fire-on-apply", WARNS),
    ("invalid-indexes", WARNS),
    ("unqualified-functions", &[Blocking, Warning]),
    ("checks-read-tables", BLOCKS),
    ("generated-read-tables", BLOCKS),
    ("copied-as-text", NOTES),
    ("catalog-numbers", NOTES),
    ("sequences-near-end", WARNS),
    // What does not travel, or must be there first.
    ("large-objects", BLOCKS),
    ("foreign-tables", WARNS),
    ("materialized-views", NOTES),
    ("event-triggers", WARNS),
    ("event-triggers-write", BLOCKS),
    ("event-triggers-refuse", BLOCKS),
    ("login-triggers-write", BLOCKS),
    ("missing-extensions", BLOCKS),
    ("extension-versions", NOTES),
    ("unmovable-extensions", BLOCKS),
    ("extension-jobs", WARNS),
    ("missing-tablespaces", BLOCKS),
    // What is there already, and what runs.
    ("target-not-empty", BLOCKS),
    ("read-only-blue", BLOCKS),
    ("read-only-green", NOTES),
    ("own-leftovers", NOTES),
    ("other-migrations", WARNS),
    ("journal-in-migrated-database", BLOCKS),
    ("foreign-subscriptions", &[Blocking, Warning]),
    ("other-consumers", WARNS),
    ("idle-slots", WARNS),
    ("long-transactions", WARNS),
    ("prepared-transactions", &[Blocking, Warning]),
    // The gate.
    ("gate-unreachable", BLOCKS),
    ("gate-ini", BLOCKS),
    ("gate-points-elsewhere", BLOCKS),
    ("gate-other-ini", &[Blocking, Warning]),
    ("gate-held", WARNS),
    ("gate-rights", BLOCKS),
    ("gate-disabled", WARNS),
    ("gate-session-mode", WARNS),
    ("gate-min-pool-size", WARNS),
    ("gate-so-reuseport", WARNS),
    ("gate-other-names", WARNS),
    ("gate-query-wait-timeout", WARNS),
    ("gate-prepared-statements", NOTES),
];

/// Whether the list has it.
pub(crate) fn known(id: &str, severity: Severity) -> bool {
    IDS.iter()
        .any(|(known, severities)| *known == id && severities.contains(&severity))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn read(path: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    #[test]
    fn the_published_list_is_this_one() {
        let page = read("../docs/preflight.md");
        // What follows is core's own: no database's.
        let (above, _) = page.split_once("## The name and the application").unwrap();
        let published: BTreeMap<String, String> = above
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|row| row.split_once("` | "))
            .map(|(id, rest)| (id.to_owned(), rest.split(" |").next().unwrap().to_owned()))
            .collect();
        let ours: BTreeMap<String, String> = IDS
            .iter()
            .map(|(id, severities)| {
                let words: Vec<String> = severities.iter().map(ToString::to_string).collect();
                ((*id).to_owned(), words.join(", "))
            })
            .collect();
        assert_eq!(published, ours);
    }

    /// A check that nobody ever saw is not one.
    #[test]
    fn every_finding_is_seen_by_a_test() {
        let mut tests = String::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let entries = [root.clone(), root.join("objects"), root.join("preflight")]
            .map(|folder| std::fs::read_dir(folder).unwrap());
        for entry in entries.into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        let unseen: Vec<&str> = IDS
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !tests.contains(&format!("\"{id}\"")) && !ELSEWHERE.contains(id))
            .collect();
        assert!(unseen.is_empty(), "no test sees {unseen:?}");
    }

    /// Put together from parts by their tests, or of servers that are not there (a pure test stands for those).
    const ELSEWHERE: &[&str] = &[
        "blue-may-not-subscribe",
        "green-may-not-subscribe",
        "max-connections",
        "max-logical-replication-workers",
        "max-replication-slots",
        "max-wal-senders",
        "max-worker-processes",
        "right-owner",
        "right-replication",
        "right-signal",
        "right-stats",
        // Needs PostgreSQL 13, an old minor.
        "old-version",
        "old-minor",
    ];
}
