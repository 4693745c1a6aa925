//! Databases that are not in UTF8: what is written in a definition is the same letters at green.

use super::{Moved, pair};
use crate::common::Pair;

const LATIN1: &str = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";

/// The bytes of the default's two letters would be one of UTF8, and a wrong one.
const WORDS: &str = "CREATE TABLE words (id int PRIMARY KEY, v text DEFAULT 'Ã©', CHECK (v <> 'Größe')); COMMENT ON TABLE words IS 'é'; INSERT INTO words (id) VALUES (1); INSERT INTO words VALUES (2, 'ü')";

/// Names, and a body, that have other bytes in another encoding.
const NAMES: &str = "CREATE TABLE \"Käse\" (id int PRIMARY KEY); CREATE FUNCTION name() RETURNS text LANGUAGE sql AS $$ SELECT 'Ã©é' $$; INSERT INTO \"Käse\" VALUES (1)";

upward_and_alike!(latin1: a_database_in_latin1, a_database_in_latin1_alike);

async fn latin1(pair: &Pair) {
    let moved = Moved::in_databases(pair, "latin1", [LATIN1, LATIN1], &format!("{WORDS}; {NAMES}")).await;
    moved.mirror().await;
    let change = "INSERT INTO words VALUES ((SELECT max(id) + 1 FROM words)); UPDATE \"Käse\" SET id = id + 1";
    moved.change(change).await;
    moved.and_back(change).await;
}

#[tokio::test]
async fn from_latin1_to_utf8() {
    let Some(pair) = pair().await else { return };
    let moved = Moved::in_databases(&pair, "words", [LATIN1, ""], &format!("{WORDS}; {NAMES}")).await;
    moved.mirror().await;
    moved
        .change("INSERT INTO words (id) VALUES (3); INSERT INTO words VALUES (4, 'ÿ'); UPDATE \"Käse\" SET id = 2")
        .await;
    moved
        .and_back("INSERT INTO words (id) VALUES (5); INSERT INTO words VALUES (6, 'ß')")
        .await;
}
