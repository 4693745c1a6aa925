//! Rights on the server's own objects. A dump has those that were changed, and nobody but a superuser may set them.

use super::{Look, listed, names};
use crate::catalog;
use crate::ident::shell;
use bluegreen_core::{Color, Result};

/// What is the server's and has other rights than the server was made with. Not `information_schema`: no dump has its rights, and
/// the server does not note with which it was made.
const CHANGED: &str = "
    SELECT 'function ' || p.oid::regprocedure FROM pg_proc p
        LEFT JOIN pg_init_privs i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('f', p.proowner)) AS d (acl),
        LATERAL (SELECT coalesce(p.proacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'table ' || c.oid::regclass FROM pg_class c
        LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('r', c.relowner)) AS d (acl),
        LATERAL (SELECT coalesce(c.relacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v')
        AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'column ' || t.attname || ' of ' || c.oid::regclass FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
        LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass AND i.objsubid = t.attnum,
        LATERAL (SELECT acldefault('c', c.relowner)) AS d (acl),
        LATERAL (SELECT coalesce(t.attacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v')
        AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'type ' || t.oid::regtype FROM pg_type t
        LEFT JOIN pg_init_privs i ON i.objoid = t.oid AND i.classoid = 'pg_type'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('T', t.typowner)) AS d (acl),
        LATERAL (SELECT coalesce(t.typacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE t.typnamespace = 'pg_catalog'::regnamespace AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'schema ' || n.nspname FROM pg_namespace n
        LEFT JOIN pg_init_privs i ON i.objoid = n.oid AND i.classoid = 'pg_namespace'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('n', n.nspowner)) AS d (acl),
        LATERAL (SELECT coalesce(n.nspacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE n.nspname = 'pg_catalog' AND NOT (now_ @> was AND now_ <@ was)
    UNION ALL SELECT 'language ' || l.lanname FROM pg_language l
        LEFT JOIN pg_init_privs i ON i.objoid = l.oid AND i.classoid = 'pg_language'::regclass AND i.objsubid = 0,
        LATERAL (SELECT acldefault('l', l.lanowner)) AS d (acl),
        LATERAL (SELECT coalesce(l.lanacl, d.acl), coalesce(i.initprivs, d.acl)) AS a (now_, was)
    WHERE l.lanname IN ('internal', 'c', 'sql', 'plpgsql') AND NOT (now_ @> was AND now_ <@ was)
    ORDER BY 1";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let mut changed = names(look.blue, CHANGED, &[]).await?;
    if changed.is_empty() {
        return Ok(());
    }
    if catalog::is_superuser(&**look.green).await? {
        let lacking = "SELECT what FROM unnest($1::text[]) AS what WHERE CASE WHEN what LIKE 'function %' \
             THEN to_regprocedure(substr(what, 10)) IS NULL WHEN what LIKE 'table %' THEN to_regclass(substr(what, 7)) IS NULL \
             WHEN what LIKE 'type %' THEN to_regtype(substr(what, 6)) IS NULL \
             WHEN what LIKE 'column %' THEN NOT EXISTS (SELECT FROM pg_attribute \
                 WHERE attrelid = to_regclass(split_part(what, ' of ', 2)) AND attname = split_part(substr(what, 8), ' of ', 1)) \
             WHEN what LIKE 'language %' THEN NOT EXISTS (SELECT FROM pg_language WHERE lanname = substr(what, 10)) \
             ELSE false END";
        changed = names(look.green, lacking, &[&changed]).await?;
    }
    if changed.is_empty() {
        return Ok(());
    }
    let blue = shell(&look.context.settings.server(Color::Blue).conninfo().without_password());
    look.warns(
        "system-rights",
        format!("rights that were changed at blue and cannot be at green, on {}", listed("thing", &changed)),
        "they are the server's own, for a superuser to change, and not every version has the same ones: they are left out of the copy, and \
         who watches or backs up the database could be turned away at green",
        format!("where green needs them too, at green as a superuser, what this prints: pg_dump --schema-only --dbname={blue} | \
                 grep -E '^(GRANT|REVOKE) .* ON ((FUNCTION|PROCEDURE|TABLE|TYPE) pg_catalog\\.|\
                 SCHEMA pg_catalog |LANGUAGE (internal|c|sql|plpgsql) )'"),
    );
    Ok(())
}
