//! What each metric means, for whoever reads it: the one place where metrics are described.

use metrics::{describe_counter, describe_gauge, describe_histogram};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// By name. A metric that is not here fails a test.
const HELP: &[(Kind, &str, &str)] = &[
    (Gauge, "construct_actors_live", "Entities in memory, by kind."),
    (Gauge, "construct_actors_mailbox_depth", "Requests waiting in mailboxes of entities, by kind."),
    (Gauge, "construct_actors_parked", "Entities of a shard that failed too often and are out of service."),
    (
        Gauge,
        "construct_background_places",
        "How many timers, messages or calls of a kind a node may have under way; few while people wait for its processors.",
    ),
    (Gauge, "construct_backup_last_bytes", "Size of the newest backup of this cluster that this node took."),
    (Gauge, "construct_backup_last_seconds", "When that backup was taken, in seconds since 1970."),
    (Counter, "construct_backups_total", "Backups by outcome."),
    (Gauge, "construct_clock_ahead_seconds", "How far the domain's clock is ahead of the system's, which went back."),
    (
        Gauge,
        "construct_cluster_level",
        "Feature level of the cluster as this node knows it: what all members can read.",
    ),
    (Histogram, "construct_command_seconds", "Time from a command's arrival to its durable answer, by kind of entity."),
    (Counter, "construct_commands_total", "Commands to entities by kind and outcome."),
    (Gauge, "construct_damage_set_aside", "Damaged databases and snapshots that were set aside and are kept."),
    (Gauge, "construct_disk_free_bytes", "Free space where the data directory is."),
    (Gauge, "construct_disk_total_bytes", "Size of the file system where the data directory is."),
    (Counter, "construct_entity_activations_total", "Entities taken into memory, by kind."),
    (Counter, "construct_entity_passivations_total", "Entities let go from memory, by kind."),
    (Counter, "construct_entity_restarts_total", "Entities started again after a failure, by kind."),
    (Histogram, "construct_envelope_items", "Requests and answers in one envelope to another node."),
    (Counter, "construct_envelopes_total", "Envelopes sent to another node."),
    (Gauge, "construct_feed_behind_entries", "Entries of a shard's feed that a consumer has not seen yet."),
    (Gauge, "construct_http_connections", "Open connections by listener."),
    (Counter, "construct_http_connections_refused_total", "Connections refused because there were too many."),
    (Counter, "construct_http_limited_total", "Requests refused by a rate limit, by class."),
    (Counter, "construct_http_overloaded_total", "Requests refused because too many were in flight, by class."),
    (Counter, "construct_http_refusals_held_total", "Refusals that were held back to slow their callers down."),
    (Histogram, "construct_http_request_seconds", "Time of a request by route."),
    (Counter, "construct_http_requests_total", "Requests by route and status."),
    (Counter, "construct_joins_total", "Attempts of nodes to join, by outcome."),
    (Gauge, "construct_kek_oldest_version", "The oldest version of the key-encryption key that this node still has."),
    (Gauge, "construct_kek_version", "The version of the key-encryption key that wraps on this node."),
    (Gauge, "construct_link_connected", "Whether another node can be reached and shows signs of life."),
    (Counter, "construct_link_disconnects_total", "Streams to other nodes that ended, by lane."),
    (Counter, "construct_link_refused_total", "Connections of other nodes that were refused, by reason."),
    (Gauge, "construct_members", "Members of the cluster by state, as this node sees them."),
    (Gauge, "construct_node_info", "This node: its number, zone and version as labels."),
    (
        Gauge,
        "construct_outbox_records",
        "Messages and calls of a shard: not done (unsettled), in memory (known), put off (waiting); on the leader.",
    ),
    (Counter, "construct_overloaded_total", "Requests refused because a shard had too many under way."),
    (Counter, "construct_password_jobs_refused_total", "Password checks refused because too many waited."),
    (Counter, "construct_provider_calls_total", "Calls of providers by outcome."),
    (Gauge, "construct_ready", "Whether a readiness check passes."),
    (Counter, "construct_replicas_collected_total", "Replicas that were placed elsewhere and gave their space back."),
    (
        Gauge,
        "construct_replicas_left_over",
        "Replicas that were placed elsewhere and have not given their space back yet.",
    ),
    (Gauge, "construct_shard_applied_index", "Index of the last log entry applied on this node."),
    (Histogram, "construct_shard_apply_seconds", "Time to apply a batch of log entries."),
    (Histogram, "construct_shard_batch_operations", "Operations in one log entry."),
    (Gauge, "construct_shard_leader", "Whether this node knows a leader of the shard."),
    (Gauge, "construct_shard_leads", "Whether this node leads the shard."),
    (Counter, "construct_shard_operations_total", "Operations applied on this node."),
    (Gauge, "construct_shard_overlay_bytes", "Applied changes in memory that are not in the state database yet."),
    (Gauge, "construct_shard_queue_depth", "Operations waiting in front of the shard's log."),
    (Gauge, "construct_shard_queued", "Operations waiting for an append, when metrics were read."),
    (Gauge, "construct_shard_replica_lag_entries", "Log entries that a replica is not known to have; on the leader."),
    (Counter, "construct_shard_snapshots_total", "Snapshots made of the shard on this node."),
    (Gauge, "construct_shard_term", "Term of the shard's group as this node knows it."),
    (Gauge, "construct_shard_voters", "Replicas of the shard that vote; on the leader."),
    (Gauge, "construct_shard_votes", "Whether this node votes in the shard's group, by its own log."),
    (Histogram, "construct_state_compaction_seconds", "Time to rewrite the state database."),
    (Counter, "construct_state_compactions_total", "Rewritings of the state database by outcome."),
    (Histogram, "construct_state_flush_seconds", "Time to bring applied changes into the state database."),
    (Gauge, "construct_state_rebuilt_shards", "Shards whose database had lost something at the last start."),
    (Histogram, "construct_timer_lag_seconds", "How late timers fire."),
    (Gauge, "construct_timers_overdue_seconds", "How long the shard's earliest due timer has been due; on the leader."),
    (Gauge, "construct_tls_valid_until_seconds", "When a certificate ends, in seconds since 1970."),
    (Counter, "construct_trace_spans_total", "Spans for the collector by outcome."),
    (Histogram, "construct_wal_batch_records", "Records of one group commit."),
    (Gauge, "construct_wal_disk_bytes", "Size of the write-ahead log's files."),
    (Counter, "construct_wal_freed_segments_total", "Segments of the write-ahead log that were removed."),
    (Gauge, "construct_wal_live_bytes", "Log entries that are not purged."),
    (Counter, "construct_wal_moved_records_total", "Live records copied out of old segments."),
    (Counter, "construct_wal_records_total", "Records written to the write-ahead log."),
    (Gauge, "construct_wal_segments", "Segment files of the write-ahead log."),
    (Histogram, "construct_wal_sync_seconds", "Time of one write and fdatasync."),
    (Counter, "construct_wal_syncs_total", "Group commits: one write and one fdatasync each."),
    (Counter, "construct_wal_written_bytes_total", "Bytes written to the write-ahead log."),
    (Gauge, "construct_websocket_connections", "Open sockets."),
    (Counter, "construct_websocket_disconnects_total", "Sockets that this node closed, by code."),
    (Counter, "construct_websocket_publications_total", "Publications sent to sockets."),
    (Gauge, "process_cpu_seconds", "Processor time used, in user and system mode."),
    (Gauge, "process_max_fds", "Most file descriptors that may be open."),
    (Gauge, "process_open_fds", "Open file descriptors."),
    (Gauge, "process_resident_memory_bytes", "Resident memory."),
    (Gauge, "process_threads", "Threads."),
];

/// Tells the recorder what the metrics mean; once it is there.
pub(super) fn describe() {
    for (kind, name, help) in HELP {
        match kind {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Histogram => describe_histogram!(*name, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The metrics that the sources name: a macro and a literal.
    fn named(directory: &Path, found: &mut BTreeSet<(String, String)>) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                named(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                for kind in ["counter", "gauge", "histogram"] {
                    for part in text.split(&format!("{kind}!(")).skip(1) {
                        let name = part.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                        let ours = |name: &&str| name.starts_with("construct_") || name.starts_with("process_");
                        found.extend(name.filter(ours).map(|name| (kind.to_owned(), name.to_owned())));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_has_its_help_and_no_help_is_left_over() {
        let mut found = BTreeSet::new();
        named(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let known: BTreeSet<(String, String)> =
            HELP.iter().map(|(kind, name, _)| (format!("{kind:?}").to_lowercase(), (*name).to_owned())).collect();
        assert_eq!(found, known);
        assert!(HELP.iter().all(|(.., help)| help.ends_with('.')) && HELP.is_sorted_by_key(|(_, name, _)| *name));
    }
}
