//! One piece of work of a stream: rows out of one server and into the other, as bytes. A row is never whole in memory: what
//! has come of it is handed on. What the two servers say meanwhile is read and judged.

use super::brake::Gauge;
use crate::error::PgError;
use crate::wire::{Io, Wire};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// So much is read, and handed on, at a time.
const BUFFER: usize = 256 << 10;

/// A message that is no row is small; a larger one means that we have lost the thread.
const LONGEST: usize = 1 << 20;

/// How long we listen to a server that hung up.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What failed, and on which side.
#[derive(Debug)]
pub(super) enum Broke {
    Source(PgError),
    Target(PgError),
}

/// Runs the `COPY .. TO STDOUT` statements at the one and the same number of `COPY .. FROM STDIN` at the other, which
/// is one transaction there. Returns how many rows there were.
pub(super) async fn pump(
    source: &mut Wire,
    target: &mut Wire,
    reads: &str,
    writes: &str,
    gauge: &mut Gauge,
) -> Result<u64, Broke> {
    let (hear, mut say) = tokio::io::split(&mut target.io);
    let forth = async {
        say.write_all(&query(writes))
            .await
            .map_err(|e| Broke::Target(e.into()))?;
        forward(&mut source.io, &mut say, reads, gauge).await
    };
    let back = async { answers(hear).await.map_err(Broke::Target) };
    tokio::pin!(forth, back);
    // The target's answer before the end can only be an error.
    let sent = tokio::select! {
        biased;
        early = &mut back => {
            let kept = early?;
            return agree(forth.await?, kept);
        }
        sent = &mut forth => sent,
    };
    match sent {
        Ok(sent) => agree(sent, back.await?),
        // It hung up: it may have said why.
        Err(Broke::Target(e)) => match tokio::time::timeout(LAST_WORDS, back).await {
            Ok(Err(why)) => Err(why),
            _ => Err(Broke::Target(e)),
        },
        Err(e) => Err(e),
    }
}

fn agree(sent: u64, kept: u64) -> Result<u64, Broke> {
    if sent == kept {
        return Ok(kept);
    }
    let what = format!("{sent} rows were read and {kept} written");
    Err(Broke::Target(PgError::Protocol(what)))
}

fn query(sql: &str) -> Vec<u8> {
    let mut message = vec![b'Q'];
    let length = u32::try_from(sql.len() + 5).unwrap_or(u32::MAX);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(sql.as_bytes());
    message.push(0);
    message
}

/// Reads what the source sends and writes the rows to the target. Returns how many the source says there were.
async fn forward(
    source: &mut Io,
    target: &mut (impl AsyncWrite + Unpin),
    reads: &str,
    gauge: &mut Gauge,
) -> Result<u64, Broke> {
    let lost = |e: std::io::Error| Broke::Source(e.into());
    source.write_all(&query(reads)).await.map_err(lost)?;
    source.flush().await.map_err(lost)?;
    let mut parser = Parser::default();
    let mut from = vec![0; BUFFER];
    let mut to = Outgoing::default();
    loop {
        let n = source.read(&mut from).await.map_err(lost)?;
        if n == 0 {
            return Err(Broke::Source(
                std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into(),
            ));
        }
        parser.take(&from[..n], &mut to).map_err(Broke::Source)?;
        let bytes = to.finish();
        if !bytes.is_empty() {
            target.write_all(bytes).await.map_err(|e| Broke::Target(e.into()))?;
            target.flush().await.map_err(|e| Broke::Target(e.into()))?;
        }
        to.clear();
        gauge.passed(n).await;
        if parser.done {
            return Ok(parser.rows);
        }
    }
}

/// Reads the target's answers to the end of the statements. Returns how many rows it says it has.
async fn answers(mut target: impl AsyncRead + Unpin) -> Result<u64, PgError> {
    let mut parser = Parser::default();
    let mut from = vec![0; 8 << 10];
    let mut nothing = Outgoing::default();
    while !parser.done {
        let n = target.read(&mut from).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        parser.take(&from[..n], &mut nothing)?;
    }
    Ok(parser.rows)
}

/// Rows on their way out: whatever came in one buffer leaves as one message.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// Where the message that is being filled begins.
    open: Option<usize>,
}

impl Outgoing {
    fn rows(&mut self, part: &[u8]) {
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            self.bytes.extend_from_slice(&[b'd', 0, 0, 0, 0]);
        }
        self.bytes.extend_from_slice(part);
    }

    fn end_of_copy(&mut self) {
        self.finish();
        self.bytes.extend_from_slice(&[b'c', 0, 0, 0, 4]);
    }

    /// Closes the message and shows all there is.
    fn finish(&mut self) -> &[u8] {
        if let Some(start) = self.open.take() {
            let length = u32::try_from(self.bytes.len() - start - 1).unwrap_or(u32::MAX);
            self.bytes[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
        }
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// A server's messages, cut anywhere.
#[derive(Debug, Default)]
struct Parser {
    header: [u8; 5],
    have: usize,
    /// What is still to come of the message whose header is complete.
    left: usize,
    /// The message so far, if it is no row.
    text: Vec<u8>,
    error: Option<PgError>,
    rows: u64,
    done: bool,
}

impl Parser {
    fn take(&mut self, mut bytes: &[u8], out: &mut Outgoing) -> Result<(), PgError> {
        while !bytes.is_empty() {
            if self.have < 5 {
                let n = bytes.len().min(5 - self.have);
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have < 5 {
                    return Ok(());
                }
                let [_, a, b, c, d] = self.header;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                self.left = length.checked_sub(4).ok_or_else(|| strange(self.header[0]))?;
                if self.header[0] != b'd' && self.left > LONGEST {
                    return Err(strange(self.header[0]));
                }
            }
            let n = bytes.len().min(self.left);
            let (part, rest) = bytes.split_at(n);
            if self.header[0] == b'd' {
                out.rows(part);
            } else {
                self.text.extend_from_slice(part);
            }
            self.left -= n;
            bytes = rest;
            if self.left == 0 {
                self.have = 0;
                if self.header[0] != b'd' {
                    self.message(out)?;
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, out: &mut Outgoing) -> Result<(), PgError> {
        let text = std::mem::take(&mut self.text);
        match self.header[0] {
            b'c' => out.end_of_copy(),
            b'C' => self.rows += copied(&text),
            b'E' => self.error = Some(refusal(&text)),
            b'Z' => {
                self.done = true;
                if let Some(error) = self.error.take() {
                    return Err(error);
                }
            }
            // The only row that there can be; what would be read after it is for nothing.
            b'D' => {
                return Err(PgError::Changed(format!(
                    "{} was rewritten, emptied or replaced",
                    value(&text)
                )));
            }
            // Beginning of a copy, rows' description, notices, settings, an empty statement.
            b'G' | b'H' | b'T' | b'N' | b'S' | b'A' | b'I' => {}
            other => return Err(strange(other)),
        }
        // A server that ends our session says why and nothing more.
        match &self.error {
            Some(PgError::Refused { fatal: true, .. }) => Err(self.error.take().unwrap_or_else(|| strange(b'E'))),
            _ => Ok(()),
        }
    }
}

fn strange(tag: u8) -> PgError {
    PgError::Protocol(format!("a message that does not belong here ({:?})", char::from(tag)))
}

/// The rows of `COPY 17`; nothing of other statements' tags.
fn copied(tag: &[u8]) -> u64 {
    let text = std::str::from_utf8(tag).unwrap_or_default().trim_end_matches('\0');
    text.strip_prefix("COPY ").and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The only value of a row.
fn value(row: &[u8]) -> String {
    String::from_utf8_lossy(row.get(6..).unwrap_or_default()).into_owned()
}

fn refusal(fields: &[u8]) -> PgError {
    let field = |key: u8| {
        fields
            .split(|b| *b == 0)
            .find(|f| f.first() == Some(&key))
            .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
    };
    let mut message = field(b'M').unwrap_or_default();
    for more in [b'D', b'H', b'W'].into_iter().filter_map(field) {
        message.push_str("; ");
        message.push_str(&more);
    }
    PgError::Refused {
        code: field(b'C').unwrap_or_default(),
        message,
        fatal: field(b'V')
            .or_else(|| field(b'S'))
            .is_some_and(|s| s == "FATAL" || s == "PANIC"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut all = vec![tag];
        all.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        all.extend_from_slice(body);
        all
    }

    /// The rows' bytes of the messages that we would send, and how many copies they end.
    fn sent(mut bytes: &[u8]) -> (Vec<u8>, usize) {
        let (mut rows, mut ends) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            match bytes[0] {
                b'd' => rows.extend_from_slice(&bytes[5..=length]),
                b'c' => {
                    rows.push(b'|');
                    ends += 1;
                }
                other => panic!("{other}"),
            }
            bytes = &bytes[length + 1..];
        }
        (rows, ends)
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_rows_are_the_same(
            tables in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20), 1..4),
            cuts in prop::collection::vec(1_usize..60, 1..50),
        ) {
            let (mut stream, mut expected, mut rows) = (Vec::new(), Vec::new(), 0);
            for table in &tables {
                stream.extend(message(b'H', &[0, 0, 0]));
                for row in table {
                    stream.extend(message(b'd', row));
                    expected.extend_from_slice(row);
                }
                rows += table.len() as u64;
                expected.push(b'|');
                stream.extend(message(b'c', &[]));
                stream.extend(message(b'N', b"SNOTICE\0\0"));
                stream.extend(message(b'C', format!("COPY {}\0", table.len()).as_bytes()));
            }
            stream.extend(message(b'Z', b"I"));
            let (mut parser, mut out, mut all) = (Parser::default(), Outgoing::default(), Vec::new());
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(rest.len().min(*cut));
                parser.take(now, &mut out).unwrap();
                all.extend_from_slice(out.finish());
                out.clear();
                rest = later;
            }
            prop_assert!(parser.done);
            prop_assert_eq!(parser.rows, rows);
            prop_assert_eq!(sent(&all), (expected, tables.len()));
        }
    }

    #[test]
    fn a_table_that_changed_ends_it_before_any_of_its_rows() {
        let mut stream = message(b'C', b"LOCK TABLE\0");
        stream.extend(message(b'T', &[0, 1]));
        stream.extend(message(b'D', b"\0\x01\0\0\0\x03s.t"));
        stream.extend(message(b'd', b"row"));
        let mut out = Outgoing::default();
        let e = Parser::default().take(&stream, &mut out).unwrap_err();
        assert!(e.to_string().starts_with("s.t was rewritten"), "{e}");
        assert!(out.finish().is_empty());
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let mut stream = message(b'E', b"SERROR\0VERROR\0C23505\0Mduplicate key\0Dit is there\0\0");
        stream.extend(message(b'Z', b"E"));
        let e = Parser::default().take(&stream, &mut Outgoing::default()).unwrap_err();
        assert_eq!(e.to_string(), "duplicate key; it is there (SQLSTATE 23505)");
        let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
        assert!(Parser::default().take(&fatal, &mut Outgoing::default()).is_err());
        assert!(
            Parser::default()
                .take(b"HTTP/1.1 400", &mut Outgoing::default())
                .is_err()
        );
    }
}
