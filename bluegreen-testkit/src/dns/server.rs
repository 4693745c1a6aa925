//! An authoritative DNS server in this process, on loopback, over UDP and TCP.

use super::zone::{Said, Zone, canonical};
use crate::servers::free_port;
use bluegreen_core::RecordKind;
use hickory_net::runtime::Time;
use hickory_proto::op::{Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// A running server. Dropping it closes its sockets.
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    // Its tasks end when it is dropped.
    _server: Server<Handler>,
}

impl fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl DnsServer {
    /// Serves a zone on 127.0.0.1 and a free port, and becomes one of the zone's authorities.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn start(zone: Arc<Mutex<Zone>>) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut server = Server::new(Handler(Arc::clone(&zone)));
        server.register_socket(UdpSocket::bind(address).await?);
        server.register_listener(TcpListener::bind(address).await?, Duration::from_secs(5), 64);
        lock(&zone).add_authority(address);
        Ok(Self {
            address,
            zone,
            _server: server,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks at the zone, or changes it; no question is answered meanwhile.
    pub fn with_zone<T>(&self, f: impl FnOnce(&mut Zone) -> T) -> T {
        f(&mut lock(&self.zone))
    }
}

/// Every critical section leaves a whole zone, so that a poisoned lock still holds one.
pub(super) fn lock(zone: &Mutex<Zone>) -> std::sync::MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Handler(Arc<Mutex<Zone>>);

#[derive(Default)]
struct Sections {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Vec<Record>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let sections = self.answer(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = sections.authoritative;
        metadata.response_code = sections.code;
        let none: &[Record] = &[];
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &sections.answers,
            none,
            &sections.soa,
            none,
        );
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                // The client has gone; it sees a timeout.
                tracing::debug!(%error, "a DNS answer could not be sent");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                })
            }
        }
    }
}

impl Handler {
    fn answer(&self, request: &Request) -> Sections {
        let fail = |code| Sections {
            code,
            ..Sections::default()
        };
        if request.metadata.op_code != OpCode::Query {
            return fail(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return fail(ResponseCode::FormErr);
        };
        let asked = Name::from(info.query.name());
        let name = canonical(&asked.to_ascii());
        let mut zone = lock(&self.0);
        if !zone.covers(&name) {
            return fail(ResponseCode::Refused);
        }
        records(&mut zone, asked, &name, info.query.query_type()).unwrap_or_else(|error| {
            tracing::warn!(%error, name, "what is in the zone cannot be said in DNS");
            fail(ResponseCode::ServFail)
        })
    }
}

fn records(zone: &mut Zone, asked: Name, name: &str, kind: RecordType) -> Result<Sections, BadData> {
    let mut sections = Sections {
        authoritative: true,
        ..Sections::default()
    };
    let apex = Name::from_ascii(format!("{}.", zone.name()))?;
    let server = Name::from_ascii(format!("ns.{}.", zone.name()))?;
    let soa = RData::SOA(SOA::new(server.clone(), apex.clone(), zone.serial(), 60, 60, 600, 1));
    let soa = Record::from_rdata(apex, 1, soa);
    let (mut owner, mut name) = (asked, name.to_owned());
    // A chain of aliases within the zone is followed, but not for ever.
    for _ in 0..8 {
        let said = match kind {
            RecordType::SOA if name == zone.name() => {
                sections.answers.push(soa);
                return Ok(sections);
            }
            RecordType::NS if name == zone.name() => {
                sections
                    .answers
                    .push(Record::from_rdata(owner, 60, RData::NS(NS(server))));
                return Ok(sections);
            }
            RecordType::TXT => match zone.text(&name) {
                Some(text) => {
                    let text = RData::TXT(TXT::new(vec![text.to_owned()]));
                    sections.answers.push(Record::from_rdata(owner, 1, text));
                    return Ok(sections);
                }
                None => zone.other(&name),
            },
            RecordType::A => zone.look_up(&name, RecordKind::A),
            RecordType::AAAA => zone.look_up(&name, RecordKind::Aaaa),
            RecordType::CNAME => zone.look_up(&name, RecordKind::Cname),
            _ => zone.other(&name),
        };
        match said {
            Said::Values { ttl, values } => {
                for value in values {
                    sections
                        .answers
                        .push(Record::from_rdata(owner.clone(), ttl, data(kind, &value)?));
                }
                return Ok(sections);
            }
            Said::Alias { ttl, to } => {
                let target = Name::from_ascii(format!("{to}."))?;
                sections
                    .answers
                    .push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
                if !zone.covers(&to) {
                    return Ok(sections);
                }
                (owner, name) = (target, canonical(&to));
                continue;
            }
            Said::Empty => {}
            Said::NoName => sections.code = ResponseCode::NXDomain,
            Said::Failed => sections.code = ResponseCode::ServFail,
        }
        sections.soa.push(soa);
        return Ok(sections);
    }
    sections.code = ResponseCode::ServFail;
    Ok(sections)
}

fn data(kind: RecordType, value: &str) -> Result<RData, BadData> {
    Ok(match kind {
        RecordType::A => RData::A(A(value.parse()?)),
        RecordType::AAAA => RData::AAAA(AAAA(value.parse()?)),
        _ => RData::CNAME(CNAME(Name::from_ascii(format!("{value}."))?)),
    })
}

#[derive(Debug, thiserror::Error)]
enum BadData {
    #[error(transparent)]
    Name(#[from] hickory_proto::ProtoError),
    #[error(transparent)]
    Address(#[from] std::net::AddrParseError),
}
