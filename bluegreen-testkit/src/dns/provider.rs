//! `LocalDns`: a `DnsProvider` over a zone of this process, or of another one that lets it in.

use super::ask::ask;
use super::server::{DnsServer, lock};
use super::zone::{Entry, Zone};
use async_trait::async_trait;
use bluegreen_core::{
    Answer, Applied, AuthorityAnswer, ChangePlan, ChangeStatus, DnsCapabilities, DnsProvider, Error, Intent, Kind,
    Receipt, Record, RecordKind, RecordSet, Result, Shape, Snapshot, Target, Weights,
};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const WITHIN: Duration = Duration::from_secs(2);

/// Steers names in a [`Zone`] by weights in per mille, with compare-and-swap by each name's version. A migration's name is
/// kept in the TXT record `_bluegreen.<name>` and changes together with the record.
#[derive(Debug, Clone)]
pub struct LocalDns(Access);

#[derive(Debug, Clone)]
enum Access {
    Here(Arc<Mutex<Zone>>),
    There(SocketAddr),
}

/// What is asked of a zone: by a call here, or as a line of JSON from another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wish {
    Read(Record),
    Apply {
        record: Record,
        version: String,
        intent: Intent,
    },
    Authorities,
}

impl LocalDns {
    /// The provider of a zone in this process.
    #[must_use]
    pub fn new(zone: Arc<Mutex<Zone>>) -> Self {
        Self(Access::Here(zone))
    }

    /// A zone with its provider and one authoritative server.
    ///
    /// # Errors
    /// When the server does not start.
    pub async fn start(zone: Zone) -> io::Result<(Self, DnsServer)> {
        let zone = Arc::new(Mutex::new(zone));
        let server = DnsServer::start(Arc::clone(&zone)).await?;
        Ok((Self::new(zone), server))
    }

    /// The provider of a zone in another process, which called [`listen`](Self::listen).
    #[must_use]
    pub fn remote(address: SocketAddr) -> Self {
        Self(Access::There(address))
    }

    /// Lets other processes on this machine in, for as long as this one's runtime lives.
    ///
    /// # Errors
    /// When no port can be bound, or the zone is another process's itself.
    pub async fn listen(&self) -> io::Result<SocketAddr> {
        let Access::Here(zone) = &self.0 else {
            return Err(io::Error::other("the zone is in another process"));
        };
        let zone = Arc::clone(zone);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let zone = Arc::clone(&zone);
                tokio::spawn(async move {
                    // Whoever asked sees a broken connection.
                    if let Err(error) = serve(stream, &zone).await {
                        tracing::debug!(%error, "a zone's client went away");
                    }
                });
            }
        });
        Ok(address)
    }

    async fn wish<T: DeserializeOwned>(&self, operation: &str, wish: &Wish) -> Result<T> {
        let answer = match &self.0 {
            Access::Here(zone) => Ok(fulfil(&mut lock(zone), wish)),
            Access::There(address) => match tokio::time::timeout(WITHIN, send(*address, wish)).await {
                Ok(answer) => answer,
                Err(_) => return Err(error(Kind::Timeout, operation, format!("no answer within {WITHIN:?}"))),
            },
        };
        let answer = answer.map_err(|e| error(Kind::Unavailable, operation, e.to_string()).because(e))?;
        serde_json::from_value(answer).map_err(|e| error(Kind::Unexpected, operation, e.to_string()).because(e))
    }
}

fn error(kind: Kind, operation: &str, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message).provider("local")
}

async fn serve(stream: TcpStream, zone: &Mutex<Zone>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let wish: Wish = serde_json::from_str(&line)?;
    let answer = fulfil(&mut lock(zone), &wish);
    stream.write_all(answer.to_string().as_bytes()).await?;
    stream.shutdown().await
}

async fn send(address: SocketAddr, wish: &Wish) -> io::Result<serde_json::Value> {
    let mut stream = TcpStream::connect(address).await?;
    let mut line = serde_json::to_vec(wish)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// What became of a wish to apply.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    Serial(u32),
    Conflict(Box<Snapshot>),
}

fn fulfil(zone: &mut Zone, wish: &Wish) -> serde_json::Value {
    match wish {
        Wish::Read(record) => serde_json::json!(read(zone, record)),
        Wish::Authorities => serde_json::json!(zone.authorities()),
        Wish::Apply {
            record,
            version,
            intent,
        } => {
            let now = read(zone, record);
            if now.version != *version {
                return serde_json::json!(Done::Conflict(Box::new(now)));
            }
            write(zone, record, intent);
            serde_json::json!(Done::Serial(zone.serial()))
        }
    }
}

fn owner_name(record: &Record) -> String {
    format!("_bluegreen.{}", record.name)
}

fn read(zone: &Zone, record: &Record) -> Snapshot {
    let owner = zone.text(&owner_name(record)).map(ToOwned::to_owned);
    let (shape, mut sets) = match zone.get(&record.name) {
        None => (Shape::Absent, vec![]),
        Some(Entry::Plain(sets)) => (Shape::Simple, sets.clone()),
        Some(Entry::Foreign(what)) => (Shape::Foreign(what.clone()), vec![]),
        Some(Entry::Weighted {
            blue,
            green,
            share,
            ttl,
        }) => (Shape::Weighted { share: *share }, both(blue, green, *ttl)),
    };
    sets.sort_by_key(|set| set.kind);
    let version = format!("{}.{}", zone.version(&record.name), zone.version(&owner_name(record)));
    let ttl = sets.iter().map(|set| set.ttl).max();
    Snapshot {
        record: record.clone(),
        shape,
        sets,
        ttl,
        owner,
        version,
        raw: serde_json::Value::Null,
    }
}

fn write(zone: &mut Zone, record: &Record, intent: &Intent) {
    let (entry, owner) = match intent {
        Intent::Weighted {
            blue,
            green,
            share,
            ttl,
            owner,
        } => {
            let (blue, green) = (blue.clone(), green.clone());
            (
                Some(Entry::Weighted {
                    blue,
                    green,
                    share: *share,
                    ttl: *ttl,
                }),
                Some(owner.clone()),
            )
        }
        Intent::Plain { sets, .. } => ((!sets.is_empty()).then(|| Entry::Plain(sets.clone())), None),
    };
    zone.set(&record.name, entry);
    zone.set_text(&owner_name(record), owner);
}

/// What a weighted name may answer with: per type the values of both targets.
fn both(blue: &Target, green: &Target, ttl: u32) -> Vec<RecordSet> {
    let mut values: BTreeMap<RecordKind, Vec<String>> = BTreeMap::new();
    for target in [blue, green] {
        for kind in target.kinds() {
            values.entry(kind).or_default().extend(target.values(kind));
        }
    }
    let sets = values.into_iter().map(|(kind, mut values)| {
        values.sort();
        values.dedup();
        RecordSet { kind, ttl, values }
    });
    sets.collect()
}

fn lines(snapshot: &Snapshot, intent: &Intent) -> Vec<String> {
    let name = &snapshot.record.name;
    match intent {
        Intent::Weighted {
            blue,
            green,
            share,
            ttl,
            ..
        } => {
            vec![format!("{name}: {share} to {green}, the rest to {blue}, TTL {ttl} s")]
        }
        Intent::Plain { sets, .. } if sets.is_empty() => vec![format!("{name}: nothing")],
        Intent::Plain { sets, .. } => sets
            .iter()
            .map(|set| format!("{name}: {} {}, TTL {} s", set.kind, set.values.join(" "), set.ttl))
            .collect(),
    }
}

#[async_trait]
impl DnsProvider for LocalDns {
    fn name(&self) -> &str {
        "local"
    }

    fn capabilities(&self) -> DnsCapabilities {
        DnsCapabilities::new(Weights::UpTo(1000))
            .with_compare_and_swap()
            .with_change_status()
    }

    async fn read(&self, record: &Record) -> Result<Snapshot> {
        self.wish("read the record", &Wish::Read(record.clone())).await
    }

    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        let operation = "compile the change";
        let name = &snapshot.record.name;
        if let Shape::Foreign(what) = &snapshot.shape {
            let message = format!("{name} holds {what}, which is not ours to overwrite: make it a plain record first");
            return Err(error(Kind::Conflict, operation, message));
        }
        let share = match intent {
            Intent::Weighted { owner, share, .. } => {
                if let Some(other) = snapshot.owner.as_ref().filter(|other| *other != owner) {
                    let message = format!("{name} belongs to the migration {other:?}: finish or abort that one first");
                    return Err(error(Kind::Conflict, operation, message));
                }
                Some(*share)
            }
            Intent::Plain { .. } => None,
        };
        let changes = !snapshot.is(intent, share);
        Ok(ChangePlan {
            record: snapshot.record.clone(),
            intent: intent.clone(),
            share,
            before: snapshot.clone(),
            changes,
            body: serde_json::Value::Null,
            lines: if changes { lines(snapshot, intent) } else { vec![] },
        })
    }

    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        if !plan.changes {
            return Ok(Applied::Accepted(Receipt("nothing to change".into())));
        }
        let wish = Wish::Apply {
            record: plan.record.clone(),
            version: plan.before.version.clone(),
            intent: plan.intent.clone(),
        };
        match self.wish("change the record", &wish).await {
            Ok(Done::Serial(serial)) => Ok(Applied::Accepted(Receipt(serial.to_string()))),
            Ok(Done::Conflict(now)) => Ok(Applied::Conflict(now)),
            Err(error) => Ok(Applied::Unknown(error.to_string())),
        }
    }

    async fn poll(&self, _: &Receipt) -> Result<ChangeStatus> {
        // Its servers answer from the zone itself.
        Ok(ChangeStatus::InSync)
    }

    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        let servers: Vec<SocketAddr> = self.wish("find the authoritative servers", &Wish::Authorities).await?;
        let asked = servers.into_iter().map(|server| async move {
            let answer = match ask_one(server, record, samples.max(1)).await {
                Ok(answer) | Err(answer) => answer,
            };
            AuthorityAnswer { server, answer }
        });
        Ok(futures::future::join_all(asked).await)
    }
}

/// `Err` is the answer that ends the asking: a server that is silent or wrong.
async fn ask_one(server: SocketAddr, record: &Record, samples: u32) -> Result<Answer, Answer> {
    let question = async |name: &str, kind| {
        let reply = ask(server, name, kind, WITHIN)
            .await
            .map_err(|e| Answer::Silent(e.to_string()))?;
        match reply.code {
            ResponseCode::NoError if reply.authoritative => Ok(reply.answers),
            ResponseCode::NoError => Err(Answer::Wrong("it answers without authority".into())),
            code => Err(Answer::Wrong(format!("it answers {code} for {name} {kind}"))),
        }
    };
    let soa = question(&record.zone, RecordType::SOA).await?;
    let serial = soa.iter().find_map(|(data, _)| {
        if let RData::SOA(soa) = data {
            Some(soa.serial)
        } else {
            None
        }
    });
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut ttl = 0;
    for kind in [RecordType::CNAME, RecordType::A, RecordType::AAAA] {
        for sample in 0..samples {
            let answers = question(&record.name, kind).await?;
            if answers.is_empty() && sample == 0 {
                break;
            }
            for (data, answered) in answers {
                let value = match data {
                    RData::A(address) => address.0.to_string(),
                    RData::AAAA(address) => address.0.to_string(),
                    RData::CNAME(name) => name.0.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
                    _ => continue,
                };
                *seen.entry(value).or_default() += 1;
                ttl = ttl.max(answered);
            }
        }
        // What an alias leads to is another name's business.
        if kind == RecordType::CNAME && !seen.is_empty() {
            break;
        }
    }
    if seen.is_empty() {
        return Err(Answer::Wrong("it has no address at the name".into()));
    }
    Ok(Answer::Serving {
        seen,
        samples,
        ttl,
        serial,
    })
}
