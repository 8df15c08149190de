//! Packets: what a query says, and how an answer fits.
//!
//! By UDP it fits when it has as many bytes as the client takes: 512, or what it says by EDNS.
//! Records go from the end of the answer, each with what explains it, until it does; it is then
//! marked truncated. Of 512 bytes the client gets three records at most, as Consul's
//! `udp_answer_limit`, which is not a truncation: any of them will do.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};

use super::Transport;
use super::lookup::{Entry, Found};

/// Bytes of a header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// In a header's third byte: it is an answer.
const IS_ANSWER: u8 = 0x80;
/// In a header's third byte: it is not whole.
const IS_CUT: u8 = 0x02;
/// What every client takes by UDP, in bytes (RFC 1035 §2.3.4).
const PLAIN: u16 = 512;
/// Most that we send by UDP, in bytes, as Consul does.
const LARGEST: u16 = 4096;
/// What we take by UDP, in bytes: no link of today fragments it (DNS flag day 2020).
const TAKEN: u16 = 1232;
/// Records of an answer in 512 bytes.
const ANSWERS: usize = 3;
/// Fewest bytes of a record: a pointer to its name, ten of its head, an IPv4 address.
const SMALLEST: usize = 16;

/// What came.
pub(super) enum Read {
    /// Not a query; an answer to it could be answered in turn, for ever.
    Drop,
    /// A query that is not understood, and its answer.
    Refused(Box<Message>),
    /// A question.
    Ask(Ask),
}

/// One question, and what matters for its answer.
pub(super) struct Ask {
    id: u16,
    recursion_desired: bool,
    pub(super) query: Query,
    /// Bytes that the client takes by UDP, if it says so.
    payload: Option<u16>,
}

/// Reads a packet.
pub(super) fn read(bytes: &[u8]) -> Read {
    let (Some(&[high, low, flags, ..]), true) = (bytes.first_chunk::<3>(), bytes.len() >= HEADER)
    else {
        return Read::Drop;
    };
    if flags & IS_ANSWER != 0 {
        return Read::Drop;
    }
    let id = u16::from_be_bytes([high, low]);
    let code = OpCode::from_u8((flags >> 3) & 0x0f);
    let refused = |why| Read::Refused(Box::new(Message::error_msg(id, code, why)));
    if code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refused(ResponseCode::FormErr) };
    if message.metadata.message_type != MessageType::Query || message.queries.len() != 1 {
        return refused(ResponseCode::FormErr);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        let mut reply = Message::error_msg(id, code, ResponseCode::BADVERS);
        reply.set_edns(edns());
        return Read::Refused(Box::new(reply));
    }
    let Some(query) = message.queries.pop() else { return refused(ResponseCode::FormErr) };
    Read::Ask(Ask {
        id,
        recursion_desired: message.metadata.recursion_desired,
        query,
        payload: message.edns.map(|edns| edns.max_payload()),
    })
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(TAKEN).set_version(0);
    edns
}

/// Writes what was found; `None` when no part of it can be.
pub(super) fn write(ask: &Ask, found: Found, over: Transport) -> Option<Vec<u8>> {
    let limit = match (over, ask.payload) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, payload) => payload.unwrap_or(PLAIN).clamp(PLAIN, LARGEST),
    };
    let limit = usize::from(limit);
    let Found { code, authoritative, mut answers, authorities, additionals } = found;
    if over == Transport::Udp && limit == usize::from(PLAIN) {
        answers.truncate(ANSWERS);
    }
    let mut reply = Message::response(ask.id, OpCode::Query);
    reply.metadata.response_code = code;
    reply.metadata.authoritative = authoritative;
    reply.metadata.recursion_desired = ask.recursion_desired;
    reply.queries.push(ask.query.clone());
    reply.edns = ask.payload.map(|_| edns());
    reply.authorities = authorities;

    let whole = answers.len();
    let with = |count: usize| {
        let mut reply = reply.clone();
        reply.metadata.truncation = count < whole;
        for Entry { record, with } in answers.iter().take(count) {
            reply.answers.push(record.clone());
            reply.additionals.extend(with.iter().cloned());
        }
        if count == whole {
            reply.additionals.extend(additionals.iter().cloned());
        }
        reply
    };
    let fits = |count: usize| encode(&with(count), limit);
    if whole <= limit / SMALLEST
        && let Some(bytes) = fits(whole)
    {
        return Some(bytes);
    }
    // Between what fits and what does not, until they are neighbours.
    let (mut best, mut too_many) = (None, whole.min(limit / SMALLEST + 1));
    let mut count = 0;
    while count + 1 < too_many {
        let middle = usize::midpoint(count, too_many);
        match fits(middle) {
            Some(bytes) => (best, count) = (Some(bytes), middle),
            None => too_many = middle,
        }
    }
    best.or_else(|| {
        // Not even one with what explains it: without.
        let mut reply = with(1);
        reply.additionals.clear();
        encode(&reply, limit).or_else(|| encode(&reply.truncate(), limit))
    })
}

/// As on the wire, if it is not longer than that.
fn encode(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    // Beyond 64 KiB the encoder cuts by itself.
    let cut = bytes.get(2).is_some_and(|flags| flags & IS_CUT != 0);
    (bytes.len() <= limit && cut == reply.metadata.truncation).then_some(bytes)
}
