//! Versions of the servers and of the tools.

use super::{Look, names};
use crate::catalog;
use crate::schema::Tools;
use bluegreen_core::{Color, Result};

/// What was tried.
const OLDEST: u32 = 14;

/// Faults by which a mirror loses changes or its place in the log: the major, the first minor without it, and what it does.
const FAULTS: &[(u32, u32, &str)] = &[
    (14, 13, PARTIAL),
    (15, 8, PARTIAL),
    (16, 4, PARTIAL),
    (14, 15, BACKWARDS),
    (15, 10, BACKWARDS),
    (16, 6, BACKWARDS),
    (17, 2, BACKWARDS),
    (14, 18, UNSEEN),
    (15, 13, UNSEEN),
    (16, 9, UNSEEN),
    (17, 5, UNSEEN),
    (14, 21, LATEST),
    (15, 16, LATEST),
    (16, 12, LATEST),
    (17, 8, LATEST),
    (18, 2, LATEST),
];

const PARTIAL: &str = "a new slot may decode only a part of a transaction that was open when it was made";
const BACKWARDS: &str = "a slot's restart point may go back to log that the server has thrown away already";
const UNSEEN: &str = "changes of a transaction that is open while a publication changes may never be sent";
const LATEST: &str = "corrections of logical decoding and apply from February 2026 are missing";

/// What is wrong with a version, and the first minor of its major without any of it.
fn faults(major: u32, minor: u32) -> Option<(Vec<&'static str>, u32)> {
    let here = FAULTS.iter().filter(|&&(of, sound, _)| of == major && minor < sound);
    let sound = here.clone().map(|&(_, sound, _)| sound).max()?;
    Some((here.map(|&(.., what)| what).collect(), sound))
}

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let blue = catalog::version(look.blue).await?;
    let green = catalog::version(look.green).await?;
    for (color, version) in [(Color::Blue, blue), (Color::Green, green)] {
        one(look, color, version / 10_000, version % 10_000).await?;
    }
    if blue / 10_000 > green / 10_000 {
        look.blocks(
            "older-target",
            format!("blue runs PostgreSQL {}, green {}", blue / 10_000, green / 10_000),
            "a newer server's schema does not load into an older one",
            format!("give green PostgreSQL {} or newer", blue / 10_000),
        );
    } else if let Err(error) = Tools::find(look.context.options.tools.as_deref(), blue, green).await {
        look.blocks(
            "no-tools",
            error.message().to_owned(),
            "the schema goes over by pg_dump and pg_restore, which must fit both versions",
            format!("apt-get install postgresql-client-{}", green / 10_000),
        );
    }
    Ok(())
}

async fn one(look: &mut Look<'_>, color: Color, major: u32, minor: u32) -> Result<()> {
    if major < OLDEST {
        look.blocks(
            "old-version",
            format!("{color} runs PostgreSQL {major}"),
            "nothing below 14 was tried",
            format!("upgrade {color} to PostgreSQL {OLDEST} first"),
        );
    }
    if let Some((what, sound)) = faults(major, minor) {
        look.warns(
            "old-minor",
            format!("{color} runs PostgreSQL {major}.{minor}: {}", what.join("; ")),
            "by known faults of this minor version a mirror loses changes, or has to begin again",
            format!("install {major}.{sound} or newer and restart {color}"),
        );
    }
    let standby = names(look.side(color), "SELECT 'standby' WHERE pg_is_in_recovery()", &[]).await?;
    if !standby.is_empty() {
        look.blocks(
            "standby",
            format!("{color} is a standby: it is in recovery"),
            "a mirror begins and ends at a server that writes",
            format!("give the address of {color}'s primary"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_minor_has_the_faults_that_were_not_mended_yet() {
        assert_eq!(faults(16, 3).unwrap(), (vec![PARTIAL, BACKWARDS, UNSEEN, LATEST], 12));
        assert_eq!(faults(17, 4).unwrap(), (vec![UNSEEN, LATEST], 8));
        assert_eq!(faults(14, 20).unwrap(), (vec![LATEST], 21));
        for (major, sound) in [(14, 21), (15, 16), (16, 12), (17, 8), (18, 2)] {
            assert_eq!(faults(major, sound - 1).unwrap().1, sound);
            assert_eq!(faults(major, sound), None);
        }
        assert_eq!(faults(19, 0), None);
    }
}
