//! Asks authoritative servers directly: every address, no recursion, UDP and then TCP, with the AA bit demanded.
//! Shared by every provider; it knows nothing of their APIs.

use bluegreen_core::{Answer, AuthorityAnswer, Error, Kind, Record, Result};
use futures::future::{join_all, try_join_all};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

/// Questions on their way to one server at the same time.
const IN_FLIGHT: u32 = 16;

/// UDP is tried so often before TCP is: a lost packet is ordinary.
const UDP_TRIES: u32 = 2;

/// How long one try waits for an answer, unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Every address of these name servers at port 53, by the system's resolver; sorted, without duplicates.
///
/// # Errors
/// `NotFound` when one of them has no address: an authority that cannot be asked cannot be called effective.
pub async fn addresses<S: AsRef<str>>(name_servers: &[S]) -> Result<Vec<SocketAddr>> {
    let operation = "find the authoritative servers";
    let mut all = BTreeSet::new();
    for name in name_servers {
        let name = name.as_ref().trim_end_matches('.');
        let found = tokio::net::lookup_host((name, 53)).await.map_err(|e| {
            let message = format!("the name server {name} has no address ({e}): correct the zone's NS records");
            Error::new(Kind::NotFound, operation, message).because(e)
        })?;
        all.extend(found);
    }
    if all.is_empty() {
        return Err(Error::new(Kind::NotFound, operation, "the zone has no NS records"));
    }
    Ok(all.into_iter().collect())
}

/// Asks each server for the addresses (or the other name) at `record`, `samples` times a type, each try waiting at most
/// `wait`. A server that is silent or wrong is data. At a name with both families, each is asked `samples` times, so a
/// value's count is out of `samples`.
///
/// # Errors
/// When the record's name or zone is no DNS name.
pub async fn ask(
    servers: &[SocketAddr],
    record: &Record,
    samples: u32,
    wait: Duration,
) -> Result<Vec<AuthorityAnswer>> {
    let name = parse(&record.name)?;
    let zone = parse(&record.zone)?;
    let asked = servers.iter().map(|server| async {
        let server = *server;
        let answer = match one_server(server, &zone, &name, samples.max(1), wait).await {
            Ok(answer) | Err(answer) => answer,
        };
        AuthorityAnswer { server, answer }
    });
    Ok(join_all(asked).await)
}

fn parse(name: &str) -> Result<Name> {
    let mut parsed = Name::from_ascii(name)
        .map_err(|e| Error::invalid("ask the authorities", format!("{name:?} is no DNS name: {e}")))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// What the answers to one type add up to.
#[derive(Default)]
struct Tally {
    seen: BTreeMap<String, u32>,
    ttl: u32,
    alias: bool,
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (value, count) in other.seen {
            *self.seen.entry(value).or_default() += count;
        }
        self.ttl = self.ttl.max(other.ttl);
        self.alias |= other.alias;
    }
}

/// `Err` holds the answer that ends the asking at once: a server that is silent or wrong stays so for this look.
async fn one_server(
    server: SocketAddr,
    zone: &Name,
    name: &Name,
    samples: u32,
    wait: Duration,
) -> Result<Answer, Answer> {
    let mut asker = Asker::new(server, wait);
    let soa = asker.ask(zone, RecordType::SOA).await?;
    let serial = soa.answers.iter().find_map(|r| {
        if let RData::SOA(soa) = &r.data {
            Some(soa.serial)
        } else {
            None
        }
    });
    let mut tally = sample(server, name, RecordType::A, samples, wait).await?;
    if !tally.alias {
        tally.add(sample(server, name, RecordType::AAAA, samples, wait).await?);
    }
    if tally.seen.is_empty() {
        return Err(Answer::Wrong("it has no address at the name".into()));
    }
    Ok(Answer::Serving {
        seen: tally.seen,
        samples,
        ttl: tally.ttl,
        serial,
    })
}

async fn sample(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    samples: u32,
    wait: Duration,
) -> Result<Tally, Answer> {
    let workers = samples.min(IN_FLIGHT);
    let worker = |index: u32| async move {
        let mut asker = Asker::new(server, wait);
        let mut tally = Tally::default();
        for _ in (index..samples).step_by(IN_FLIGHT as usize) {
            tally.add(read(name, &asker.ask(name, kind).await?));
        }
        Ok(tally)
    };
    let mut all = Tally::default();
    for tally in try_join_all((0..workers).map(worker)).await? {
        all.add(tally);
    }
    Ok(all)
}

/// The values at the name itself, canonical; what an alias leads to is another name's business.
fn read(name: &Name, answer: &Message) -> Tally {
    let mut tally = Tally::default();
    for record in answer.answers.iter().filter(|r| r.name == *name) {
        let value = match &record.data {
            RData::A(a) => a.0.to_string(),
            RData::AAAA(aaaa) => aaaa.0.to_string(),
            RData::CNAME(cname) => {
                tally.alias = true;
                cname.0.to_ascii().trim_end_matches('.').to_ascii_lowercase()
            }
            _ => continue,
        };
        *tally.seen.entry(value).or_default() += 1;
        tally.ttl = tally.ttl.max(record.ttl);
    }
    tally
}

/// Asks one server, one question at a time, over a UDP socket of its own.
struct Asker {
    server: SocketAddr,
    wait: Duration,
    socket: Option<UdpSocket>,
}

impl Asker {
    fn new(server: SocketAddr, wait: Duration) -> Self {
        Self {
            server,
            wait,
            socket: None,
        }
    }

    /// An authoritative, error-free answer to one question.
    async fn ask(&mut self, name: &Name, kind: RecordType) -> Result<Message, Answer> {
        let answer = self.exchange(name, kind).await.map_err(Answer::Silent)?;
        match answer.metadata.response_code {
            ResponseCode::NoError if answer.metadata.authoritative => Ok(answer),
            ResponseCode::NoError => Err(Answer::Wrong(format!("it answers without authority for {name}"))),
            ResponseCode::NXDomain => Err(Answer::Wrong(format!("it knows no such name as {name}"))),
            code => Err(Answer::Wrong(format!("it answers {code} for {name} {kind}"))),
        }
    }

    async fn exchange(&mut self, name: &Name, kind: RecordType) -> Result<Message, String> {
        let mut why = String::new();
        for _ in 0..UDP_TRIES {
            let question = question(name, kind);
            match self.over_udp(&question).await {
                Ok(answer) if answer.metadata.truncation => break,
                Ok(answer) => return Ok(answer),
                Err(e) => why = e,
            }
        }
        let question = question(name, kind);
        match timeout(self.wait, over_tcp(self.server, &question)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) if why.is_empty() => Err(format!("TCP: {e}")),
            Ok(Err(e)) => Err(format!("UDP: {why}; TCP: {e}")),
            Err(_) if why.is_empty() => Err(format!("TCP: no answer within {:?}", self.wait)),
            Err(_) => Err(format!("UDP: {why}; TCP: no answer within {:?}", self.wait)),
        }
    }

    async fn over_udp(&mut self, question: &Message) -> Result<Message, String> {
        if self.socket.is_none() {
            self.socket = Some(connected(self.server).await.map_err(|e| e.to_string())?);
        }
        let socket = self.socket.as_ref().ok_or("no socket")?;
        let bytes = question.to_vec().map_err(|e| e.to_string())?;
        socket.send(&bytes).await.map_err(|e| e.to_string())?;
        let deadline = Instant::now() + self.wait;
        let mut buffer = vec![0; 4096];
        loop {
            let length = match timeout_at(deadline, socket.recv(&mut buffer)).await {
                Ok(received) => received.map_err(|e| e.to_string())?,
                Err(_) => return Err(format!("no answer within {:?}", self.wait)),
            };
            // A late answer to an earlier question, or noise, is not this one's answer.
            if let Ok(answer) = Message::from_vec(&buffer[..length])
                && answers(&answer, question)
            {
                return Ok(answer);
            }
        }
    }
}

fn question(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id && answer.queries == question.queries
}

async fn connected(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that the kernel drops what comes from anybody else.
    socket.connect(server).await?;
    Ok(socket)
}

async fn over_tcp(server: SocketAddr, question: &Message) -> Result<Message, String> {
    let text = |e: std::io::Error| e.to_string();
    let bytes = question.to_vec().map_err(|e| e.to_string())?;
    let length = u16::try_from(bytes.len()).map_err(|_| "the question is too long".to_owned())?;
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    let framed: Vec<u8> = length.to_be_bytes().into_iter().chain(bytes).collect();
    stream.write_all(&framed).await.map_err(text)?;
    let length = stream.read_u16().await.map_err(text)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(text)?;
    let answer = Message::from_vec(&buffer).map_err(|e| e.to_string())?;
    if answers(&answer, question) {
        Ok(answer)
    } else {
        Err("it answered another question".into())
    }
}
