//! The application's tables, and a past for them: enough rows that a first copy is work.

use crate::servers::postgres::connect;

/// How many accounts there are.
pub const ACCOUNTS: i32 = 1000;

/// The token is unique by how clients make it and not by an index: a write that happened twice has to show.
const TABLES: &str = "
CREATE TABLE accounts (
    id int PRIMARY KEY,
    opening bigint NOT NULL,
    balance bigint NOT NULL
);
CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    token text NOT NULL,
    acct int NOT NULL REFERENCES accounts,
    amount bigint NOT NULL,
    note text NOT NULL DEFAULT repeat('x', 100),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_token ON orders (token);
CREATE INDEX orders_acct ON orders (acct);
";

/// Makes the tables in an empty database, with so many old orders.
///
/// # Errors
/// When the database refuses.
pub async fn create(url: &str, rows: u64) -> Result<(), tokio_postgres::Error> {
    let past = format!(
        "INSERT INTO accounts SELECT g, 1000, 1000 FROM generate_series(1, {ACCOUNTS}) g;
         INSERT INTO orders (token, acct, amount) SELECT 'old-' || g, g % {ACCOUNTS} + 1, g % 7 FROM generate_series(1, {rows}) g;
         UPDATE accounts SET balance = opening + coalesce((SELECT sum(amount) FROM orders WHERE acct = accounts.id), 0);
         ANALYZE;"
    );
    let client = connect(url).await?;
    client.batch_execute(TABLES).await?;
    client.batch_execute(&past).await
}
