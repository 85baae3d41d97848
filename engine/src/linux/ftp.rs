//! The FTP helper: control connections under NAT open the way for their data connections (reference/linux-ipvs.md section
//! 7.6).

use super::Director;
use super::packet::Packet;
use crate::config::Protocol;
use crate::packet::{Ipv4, Ipv6, Tcp, checksum, tcp};
use crate::rewrite::ftp::{self, ClientCommand, SequenceShift};
use crate::track::tcp::TcpState;
use crate::track::{Connection, ConnectionId};
use crate::verdict::DropReason;
use std::net::{IpAddr, SocketAddr};

const FTP: u16 = 21;

/// What is known of a control connection.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// The client asked for a data port of the server: the next answer names it.
    passive: Option<ClientCommand>,
    /// How far the server's sequence numbers are shifted.
    shift: SequenceShift,
}

impl Director {
    /// Whether the helper watches a connection.
    pub(super) fn has_ftp_helper(&self, connection: &Connection) -> bool {
        // The helper rewrites nothing without conntrack, and no snapshot says whether its module is loaded.
        self.host.sysctls.vs.conntrack
            && connection.protocol == Protocol::TCP
            && connection.is_nat()
            && connection.virtual_port == FTP
    }

    /// The helper verifies the checksum of all that it sees.
    fn check(packet: &Packet) -> Result<(), DropReason> {
        let (source, destination) = packet.addresses();
        let segment = packet.transport();
        let sum = checksum::pseudo_header(source, destination, 6, segment.len()).bytes(segment);
        if packet.is_cut() || checksum::is_right(sum) { Ok(()) } else { Err(DropReason::BadTransportChecksum) }
    }

    /// A client's segment on its way to the server.
    pub(super) fn ftp_request(
        &mut self,
        packet: &mut Packet,
        id: ConnectionId,
        connection: &Connection,
    ) -> Result<(), DropReason> {
        Director::check(packet)?;
        if packet.is_cut() {
            return Ok(());
        }
        self.forget_ended_ftp();
        let command = {
            let Ok(view) = Tcp::new_checked(packet.transport()) else { return Ok(()) };
            let established = connection.state == TcpState::Established as u8;
            if established { ftp::client_command(view.payload(), !packet.is_v4()) } else { None }
        };
        match command {
            Some(ClientCommand::Active(client)) => {
                let (virtual_port, server_port) = (connection.virtual_port - 1, connection.server_port.wrapping_sub(1));
                self.ipvs.expect_ftp_data(id, client, virtual_port, server_port, packet.time);
            }
            Some(passive) => self.ftp.entry(id).or_default().passive = Some(passive),
            None => {}
        }
        if let Some(shift) = self.ftp.get(&id).map(|control| control.shift).filter(|shift| !shift.is_none()) {
            edit(packet, |view| {
                let number = view.acknowledgement();
                view.set_acknowledgement(shift.acknowledgement(number));
            });
        }
        Ok(())
    }

    /// A server's segment on its way to the client.
    pub(super) fn ftp_answer(
        &mut self,
        packet: &mut Packet,
        id: ConnectionId,
        connection: &Connection,
    ) -> Result<(), DropReason> {
        Director::check(packet)?;
        let Some(control) = self.ftp.get(&id).cloned() else { return Ok(()) };
        if packet.is_cut() {
            return Ok(());
        }
        let sequence = Tcp::new_checked(packet.transport()).map_or(0, |view| view.sequence());
        if connection.state == TcpState::Established as u8
            && let Some(mode) = control.passive
        {
            self.rewrite_passive_answer(packet, id, connection, mode, sequence);
        }
        let shift = self.ftp.get(&id).map_or(control.shift, |control| control.shift);
        if !shift.is_none() {
            edit(packet, |view| view.set_sequence(shift.sequence(sequence)));
        }
        Ok(())
    }

    fn rewrite_passive_answer(
        &mut self,
        packet: &mut Packet,
        id: ConnectionId,
        connection: &Connection,
        mode: ClientCommand,
        sequence: u32,
    ) {
        let Ok(view) = Tcp::new_checked(packet.transport()) else { return };
        let answer = match mode {
            ClientCommand::Passive => ftp::passive_answer(view.payload()),
            _ => ftp::extended_passive_answer(view.payload()),
        };
        let Some(answer) = answer else { return };
        let text = match connection.virtual_address {
            IpAddr::V4(vip) if mode == ClientCommand::Passive => ftp::passive_text(vip, answer.port),
            _ => ftp::extended_passive_text(answer.port),
        };
        let payload_at = packet.headers.transport_at + packet.transport().len() - view.payload().len();
        let place = payload_at + answer.place.start..payload_at + answer.place.end;
        let change = text.len() as i32 - place.len() as i32;
        let client = SocketAddr::new(connection.client, 0);
        self.ipvs.expect_ftp_data(id, client, answer.port, answer.port, packet.time);
        packet.bytes.splice(place, text.bytes());
        let total_len = packet.headers.total_len.saturating_add_signed(change as isize);
        if let Ok(mut view) = Ipv4::new_checked(&mut packet.bytes[..]) {
            view.set_total_len(total_len as u16);
        } else if let Ok(mut view) = Ipv6::new_checked(&mut packet.bytes[..]) {
            view.set_payload_len((total_len - 40) as u16);
        }
        packet.reread();
        edit(packet, |_| {});
        if let Some(control) = self.ftp.get_mut(&id) {
            control.passive = None;
            if change != 0 {
                control.shift.changed(sequence, change);
            }
        }
    }

    /// Control connections that ended are forgotten now and then.
    fn forget_ended_ftp(&mut self) {
        if self.ftp.len() > 1024 && self.ftp.len() > 2 * self.ipvs.table().len() {
            let ipvs = &self.ipvs;
            self.ftp.retain(|id, _| ipvs.connection(*id).is_some());
        }
    }
}

/// Changes a whole segment and computes its checksum anew.
fn edit(packet: &mut Packet, change: impl FnOnce(&mut Tcp<&mut [u8]>)) {
    let (source, destination) = packet.addresses();
    let (at, end) = (packet.headers.transport_at, packet.headers.total_len.min(packet.bytes.len()));
    let Some(segment) = packet.bytes.get_mut(at..end) else { return };
    let len = segment.len();
    let Ok(mut view) = Tcp::new_checked(segment) else { return };
    change(&mut view);
    view.set_checksum(0);
    let sum = checksum::pseudo_header(source, destination, 6, len).bytes(&packet.bytes[at..end]);
    let check = sum.checksum();
    packet.bytes[at + tcp::CHECKSUM_AT..at + tcp::CHECKSUM_AT + 2].copy_from_slice(&check.to_be_bytes());
}
