//! One question to one DNS server: over UDP, and over TCP when the answer did not fit.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its response code.
    pub code: ResponseCode,
    /// Whether it says that it is an authority.
    pub authoritative: bool,
    /// The data of the answer section, with their TTLs.
    pub answers: Vec<(RData, u32)>,
}

impl Reply {
    /// The addresses among the answers.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.answers.iter().filter_map(|(data, _)| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
    }

    /// The smallest TTL of the answers: what may be cached.
    #[must_use]
    pub fn ttl(&self) -> Option<u32> {
        self.answers.iter().map(|(_, ttl)| *ttl).min()
    }
}

/// Asks without recursion; an answer that has not come `within` so long is a timeout.
///
/// # Errors
/// No answer in time, or none that can be read. A response code that says no is a [`Reply`].
pub async fn ask(server: SocketAddr, name: &str, kind: RecordType, within: Duration) -> io::Result<Reply> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(io::Error::other)?;
    let question = Query::query(name, kind);
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.add_query(question);
    let asked = async {
        let reply = over_udp(server, &message).await?;
        if reply.metadata.truncation {
            over_tcp(server, &message).await
        } else {
            Ok(reply)
        }
    };
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{server} did not answer within {within:?}"),
        )
    };
    let reply = tokio::time::timeout(within, asked).await.map_err(|_| late())??;
    Ok(Reply {
        code: reply.metadata.response_code,
        authoritative: reply.metadata.authoritative,
        answers: reply
            .answers
            .into_iter()
            .map(|record| (record.data, record.ttl))
            .collect(),
    })
}

/// Whether this is the answer to that, and not one that came late to an earlier question, or from somebody else.
fn fits(reply: &Message, asked: &Message) -> bool {
    reply.metadata.id == asked.metadata.id && reply.queries == asked.queries
}

async fn over_udp(server: SocketAddr, asked: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&asked.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(reply) if fits(&reply, asked) => return Ok(reply),
            _ => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    stream
        .write_u16(u16::try_from(bytes.len()).map_err(io::Error::other)?)
        .await?;
    stream.write_all(&bytes).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let reply = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if fits(&reply, asked) {
        Ok(reply)
    } else {
        Err(io::Error::other(format!("{server} answered something else")))
    }
}
