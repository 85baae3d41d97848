//! Fragmentation of packets that are too long for a link (reference/linux-ipvs.md section 6.9; RFC 791, RFC 8200 section 4.5).

use crate::packet::{Ipv4, Ipv6, ipv4, ipv6};

/// An IPv6 fragment header.
const FRAGMENT_HEADER_LEN: usize = 8;

/// How an IPv4 packet leaves in fragments of at most `limit` bytes: the lengths of their data. See [`cuts_v6`] for `parts`.
pub fn cuts_v4(packet: &[u8], limit: usize, parts: &[usize]) -> Vec<usize> {
    let Ok(view) = Ipv4::new_checked(packet) else { return Vec::new() };
    cuts(view.payload().len(), limit.saturating_sub(view.header_len()), parts)
}

/// Cuts an IPv4 packet into fragments of these lengths and hands each to `emit`. The packet's own offset and flags are kept (a
/// fragment can be cut again). `dont_fragment` sets the flag on every piece (reference section 6.9).
pub fn cut_v4(packet: &[u8], cuts: &[usize], dont_fragment: bool, mut emit: impl FnMut(&[u8])) {
    let Ok(view) = Ipv4::new_checked(packet) else { return };
    let header_len = view.header_len();
    let body = view.payload();
    let mut header = packet[..header_len].to_vec();
    let mut piece = Vec::new();
    let mut at = 0;
    for take in cuts {
        let Some(data) = body.get(at..at + take) else { return };
        let more = at + take < body.len() || view.more_fragments();
        let offset = ((view.fragment_offset() + at) / 8) as u16 & 0x1fff;
        let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 } | if dont_fragment { ipv4::DONT_FRAGMENT } else { 0 };
        if let Ok(mut out) = Ipv4::new_checked(&mut header[..]) {
            out.set_total_len((header_len + take) as u16);
            out.set_flags_and_offset(offset | flags);
            out.fill_checksum();
        }
        piece.clear();
        piece.extend_from_slice(&header);
        piece.extend_from_slice(data);
        emit(&piece);
        if at == 0 {
            blank_uncopied_options(&mut header);
        }
        at += take;
    }
}

/// Options without the copy bit stand in the first fragment only; later ones have no-operations there.
fn blank_uncopied_options(header: &mut [u8]) {
    let options: Vec<_> = ipv4::walk_options(&header[ipv4::HEADER_LEN..]).map_while(Result::ok).collect();
    for found in options {
        if found.kind & ipv4::option::COPIED == 0 {
            let start = ipv4::HEADER_LEN + found.at;
            header[start..start + found.len].fill(ipv4::option::NO_OPERATION);
        }
    }
}

/// How an IPv6 packet leaves in fragments of at most `limit` bytes: the lengths of their data. A packet that was put together
/// from `parts` leaves in these again if they still can be fragments; what the packet grew by, a tunnel's headers, is the
/// first one's. Give no `parts` where the kernel has no room left before them for headers, and it cuts anew.
pub fn cuts_v6(packet: &[u8], limit: usize, parts: &[usize]) -> Vec<usize> {
    let Some((_, unfragmentable)) = unfragmentable_part(packet) else { return Vec::new() };
    cuts(packet.len() - unfragmentable, limit.saturating_sub(unfragmentable + FRAGMENT_HEADER_LEN), parts)
}

/// Cuts a body of that length into pieces of at most `room` bytes, all but the last whole units of 8.
fn cuts(body: usize, room: usize, parts: &[usize]) -> Vec<usize> {
    if let [_, later @ .., last] = parts
        && let Some(first) = body.checked_sub(later.iter().sum::<usize>() + last)
    {
        let fits = |len: &usize| (1..=room).contains(len) && len.is_multiple_of(8);
        if fits(&first) && later.iter().all(fits) && *last <= room {
            return [&[first], later, &[*last]].concat();
        }
    }
    let mut cuts = Vec::new();
    let mut rest = body;
    while rest > room && room >= 8 {
        cuts.push(room & !7);
        rest -= room & !7;
    }
    if (1..=room).contains(&rest) {
        cuts.push(rest);
    }
    cuts
}

/// Cuts an IPv6 packet into fragments of these lengths with that identification, and hands each to `emit`.
pub fn cut_v6(packet: &[u8], cuts: &[usize], id: u32, mut emit: impl FnMut(&[u8])) {
    let Some((number_at, unfragmentable)) = unfragmentable_part(packet) else { return };
    let body = &packet[unfragmentable..];
    let mut piece = Vec::new();
    let mut at = 0;
    for take in cuts {
        let Some(data) = body.get(at..at + take) else { return };
        let more = at + take < body.len();
        piece.clear();
        piece.extend_from_slice(&packet[..unfragmentable]);
        let next = piece[number_at];
        piece[number_at] = ipv6::next_header::FRAGMENT;
        let word = (at & 0xfff8) as u16 | u16::from(more);
        piece.extend_from_slice(&[next, 0]);
        piece.extend_from_slice(&word.to_be_bytes());
        piece.extend_from_slice(&id.to_be_bytes());
        piece.extend_from_slice(data);
        let len = (piece.len() - ipv6::HEADER_LEN) as u16;
        if let Ok(mut view) = Ipv6::new_checked(&mut piece[..]) {
            view.set_payload_len(len);
        }
        emit(&piece);
        at += take;
    }
}

/// Where in a packet the fragment header goes: the place of the number that names it, and its own place (RFC 8200 section
/// 4.5): behind hop-by-hop and routing headers, and behind destination options that stand before a routing header.
pub fn unfragmentable_part(packet: &[u8]) -> Option<(usize, usize)> {
    let mut next = *packet.get(6)?;
    let mut at = ipv6::HEADER_LEN;
    let mut end = (6, at);
    while matches!(next, ipv6::next_header::HOP_BY_HOP | ipv6::next_header::ROUTING | ipv6::next_header::DESTINATION_OPTIONS) {
        let kind = next;
        let len = 8 + usize::from(*packet.get(at + 1)?) * 8;
        let number_at = at;
        next = *packet.get(number_at)?;
        at += len;
        if at > packet.len() {
            return None;
        }
        if kind != ipv6::next_header::DESTINATION_OPTIONS {
            end = (number_at, at);
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v6_leaves_as_it_came_if_it_can() {
        let packet = |body: usize| {
            let mut bytes = vec![0x60; ipv6::HEADER_LEN + body];
            bytes[6] = 17;
            bytes
        };
        let parts = [856, 856, 796];
        assert_eq!(cuts_v6(&packet(2508), 1280, &parts), parts);
        assert_eq!(cuts_v6(&packet(2548), 1280, &parts), [896, 856, 796], "in an IPIP tunnel");
        assert_eq!(cuts_v6(&packet(2560), 1280, &parts), [1232, 1232, 96], "52 bytes of a GUE tunnel are no whole units");
        assert_eq!(cuts_v6(&packet(2508), 1280, &[]), [1232, 1232, 44]);
        assert_eq!(cuts_v6(&packet(2508), 800, &parts), [752, 752, 752, 252], "too long");
        assert_eq!(cuts_v6(&packet(608), 1280, &[608]), [608]);
    }
}
