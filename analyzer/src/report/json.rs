//! The result of a replay for programs: one JSON document, versioned by `schema`. docs/json.md describes it.

use super::ipvsadm;
use crate::replay::Outcome;
use lvscheck_engine::listing::Counters;
use serde_json::{Value, json};

/// The version of the document's form. Fields may be added within a version; none changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Renders an outcome.
pub fn render(outcome: &Outcome) -> Value {
    let input = &outcome.input;
    let director = &outcome.director;
    let roles = &outcome.roles;
    json!({
        "schema": SCHEMA,
        "command": "replay",
        "conforms": outcome.conforms(),
        "capture": {
            "files": input.files,
            "frames": input.frames,
            "bytes": input.bytes,
            "first_ns": input.first.0,
            "last_ns": input.last.0,
            "warnings": input.warnings,
        },
        "director": {
            "source": director.source,
            "profile": director.profile,
            "mode": director.mode,
            "interfaces": director.interfaces,
            "assumed": director.assumed,
            "warnings": director.warnings,
        },
        "services": outcome.services.iter().map(|service| json!({
            "service": service.key.to_string(),
            "scheduler": service.settings.scheduler.name(),
            "counters": counters(&service.counters),
            "servers": service.servers.iter().map(|server| json!({
                "server": server.key.to_string(),
                "method": ipvsadm::method_name(server.settings.method),
                "weight": server.settings.weight,
                "active": server.active,
                "inactive": server.inactive,
                "templates": server.persistent,
                "counters": counters(&server.counters),
            })).collect::<Vec<_>>(),
            "local_addresses": service.local_addresses.iter().map(|local| json!({
                "address": local.address.to_string(),
                "connections": local.connections,
                "ports_in_use": local.ports_in_use,
                "ports": local.ports,
                "exhausted": local.exhausted,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "client_addresses": outcome.client_addresses.iter().map(|(number, counts)| json!({
            "service": outcome.services.iter().find(|service| service.number == *number).map(|service| service.key.to_string()),
            "toa": counts.toa,
            "toa_after_pruning": counts.toa_after_pruning,
            "no_option_room": counts.no_option_room,
            "longer_than_mtu": counts.longer_than_mtu,
            "forged": counts.forged,
            "uoa": counts.uoa,
            "uoa_ahead": counts.uoa_ahead,
            "proxy_headers": counts.proxy_headers,
        })).collect::<Vec<_>>(),
        "fullnat": outcome.translations.iter().map(|entry| json!({
            "client": entry.client.to_string(),
            "service": entry.service.to_string(),
            "local": entry.local.to_string(),
            "server": entry.server.to_string(),
            "toa": entry.toa.as_ref().map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        })).collect::<Vec<_>>(),
        "verdicts": outcome.verdicts.rows().map(|(kind, words, count)| json!({
            "kind": kind, "words": words, "frames": count,
        })).collect::<Vec<_>>(),
        "not_input": {
            "from_director": roles.from_director,
            "past_director": roles.past_director,
            "replies": roles.replies,
            "unmatched_replies": roles.unmatched_replies,
            "of_others": roles.of_others,
            "unreadable": roles.unreadable,
        },
        "emitted": {
            "frames": outcome.emitted.frames,
            "bytes": outcome.emitted.bytes,
            "link": outcome.emitted.link,
            "icmp_errors": outcome.emitted.icmp_errors,
        },
        "demands": outcome.demands.iter().map(|demand| json!({
            "id": demand.id, "frames": demand.frames, "count": demand.count, "message": demand.message,
        })).collect::<Vec<_>>(),
        "replies": outcome.replies.as_ref().map(|comparison| serde_json::to_value(comparison).unwrap_or(Value::Null)),
        "golden": outcome.golden.as_ref().map(|comparison| serde_json::to_value(comparison).unwrap_or(Value::Null)),
        "connections": outcome.connections.iter().map(|connection| json!({
            "protocol": connection.protocol.to_string(),
            "client": connection.client.to_string(),
            "service": connection.service.to_string(),
            "destination": connection.destination.to_string(),
            "local": connection.local.map(|local| local.to_string()),
            "state": connection.state,
            "expires_ns": connection.expires.0,
        })).collect::<Vec<_>>(),
        "speed": {
            "seconds": outcome.speed.seconds,
            "frames_per_second": outcome.speed.frames_per_second,
        },
    })
}

fn counters(counters: &Counters) -> Value {
    json!({
        "connections": counters.connections,
        "in_packets": counters.in_packets,
        "out_packets": counters.out_packets,
        "in_bytes": counters.in_bytes,
        "out_bytes": counters.out_bytes,
    })
}
