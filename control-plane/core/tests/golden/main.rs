//! Golden bytes: what is in a log or a store today must be read by every later version. A
//! difference here means that stored data would be misread; a new variant adds a line, an old line
//! never changes.
//!
//! `UPDATE_GOLDEN=1 cargo test -p ollamamax-core --test golden` appends the lines of new variants.

#![allow(clippy::disallowed_methods, reason = "the test reads and records files")]

mod samples;
mod samples_access;

use ollamamax_core::change::Change;
use ollamamax_core::codec::{
    self, Batch, decode_batch, decode_changes, decode_command, decode_replies,
};
use ollamamax_core::command::Command;
use ollamamax_core::table;
use ollamamax_proto::Millis;
use samples::{changes, commands, replies};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How many variants each list must show. Without wildcards, so that a new variant does not compile
/// until it is here; then raise the count below and add it to the list above.
fn ordinal_of_command(command: &Command) -> u8 {
    use Command as C;
    match command {
        C::Bootstrap { .. } => 0,
        C::AdmitNode { .. } => 1,
        C::AnnounceNode { .. } => 2,
        C::PromoteNode { .. } => 3,
        C::RemoveNode { .. } => 4,
        C::ForgetNode { .. } => 5,
        C::PutModel { .. } => 6,
        C::CopyModel { .. } => 7,
        C::DeleteModel { .. } => 8,
        C::DemandModel { .. } => 9,
        C::ReleaseModel { .. } => 10,
        C::ExpireDemands => 11,
        C::RegisterWorker { .. } => 12,
        C::SetWorkerStatus { .. } => 13,
        C::RemoveWorker { .. } => 14,
        C::ApplyPlan { .. } => 15,
        C::ReportPlacements { .. } => 16,
        C::PutCheckpoint { .. } => 17,
        C::DeleteCheckpoint { .. } => 18,
        C::Deploy { .. } => 19,
        C::ClearDeployment { .. } => 20,
        C::LabelWorker { .. } => 21,
        C::DrainWorker { .. } => 22,
        C::ResumeWorker { .. } => 23,
        C::MigrateModel { .. } => 24,
        C::RollOut { .. } => 25,
        C::ShiftTraffic { .. } => 26,
        C::RevertRollout { .. } => 27,
        C::ScaleModel { .. } => 28,
        C::Access(_) => 29,
        C::Noted { .. } => 30,
        C::AdoptServer { .. } => 31,
        C::ReleaseServer { .. } => 32,
    }
}

fn ordinal_of_change(change: &Change) -> u8 {
    use Change as C;
    match change {
        C::ClusterPut(_) => 0,
        C::NodePut(_) => 1,
        C::NodeRemoved(_) => 2,
        C::ModelPut(_) => 3,
        C::ModelRemoved(_) => 4,
        C::DemandPut(_) => 5,
        C::DemandRemoved(_) => 6,
        C::WorkerPut(_) => 7,
        C::WorkerRemoved(_) => 8,
        C::PlacementPut(_) => 9,
        C::PlacementRemoved(_) => 10,
        C::CheckpointPut(_) => 11,
        C::CheckpointRemoved(_) => 12,
        C::Advanced(_) => 13,
        C::DeploymentPut(_) => 14,
        C::DeploymentRemoved(_) => 15,
        C::OrdersPut(_) => 16,
        C::OrdersRemoved(_) => 17,
        C::ReplicaPut(_) => 18,
        C::ReplicaRemoved(_) => 19,
        C::MigrationPut(_) => 20,
        C::MigrationRemoved(_) => 21,
        C::RolloutPut(_) => 22,
        C::RolloutRemoved(_) => 23,
        C::VersionPut(_) => 24,
        C::VersionRemoved(..) => 25,
        C::Access(_) => 26,
        C::AdoptedPut(_) => 27,
        C::AdoptedRemoved(_) => 28,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).expect("hex")).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

/// A name for each item: its variant, and a number where there are several.
fn named<T: std::fmt::Debug>(items: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<(String, String)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let line = |item: &T| {
        let text = format!("{item:?}");
        let variant: String = text
            .split(|c: char| !c.is_alphanumeric())
            .find(|word| !matches!(*word, "Ok" | "Err" | "Access"))
            .unwrap_or_default()
            .to_owned();
        let nth = seen.entry(variant.clone()).or_insert(0);
        *nth += 1;
        (format!("{variant}.{nth}"), hex(&encode(item)))
    };
    items.iter().map(line).collect()
}

fn compare(file: &str, actual: &[(String, String)]) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines: BTreeMap<&str, &str> =
        recorded.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut difference = String::new();
    let mut new = String::new();
    for (name, bytes) in actual {
        match lines.remove(name.as_str()) {
            Some(known) if known == bytes => {}
            Some(known) => difference += &format!("  {name}\n   -{known}\n   +{bytes}\n"),
            None => new += &format!("{name} {bytes}\n"),
        }
    }
    for gone in lines.keys() {
        difference += &format!("  {gone} is recorded but not encoded any more\n");
    }
    assert!(difference.is_empty(), "{file}: stored bytes would be misread:\n{difference}");
    if !new.is_empty() && std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, recorded.clone() + &new).expect("the golden file can be written");
    } else {
        assert!(new.is_empty(), "{file}: not recorded yet:\n{new}");
    }
    let recorded = recorded.lines().filter_map(|line| line.split_once(' '));
    recorded.map(|(_, bytes)| unhex(bytes)).collect()
}

#[test]
fn commands_keep_their_bytes() {
    let all = commands();
    for ordinal in 0..33 {
        assert!(
            all.iter().any(|c| ordinal_of_command(c) == ordinal),
            "command {ordinal} is absent"
        );
    }
    let encode = |command: &Command| codec::encode_command(command).expect("it is short");
    for bytes in compare("commands.hex", &named(&all, encode)) {
        let command = decode_command(&bytes).expect("recorded bytes are read");
        assert!(all.contains(&command));
        assert_eq!(bytes[1], ordinal_of_command(&command), "the variant's number is its place");
    }
}

#[test]
fn changes_and_rows_keep_their_bytes() {
    let all = changes();
    for ordinal in 0..29 {
        assert!(all.iter().any(|c| ordinal_of_change(c) == ordinal), "change {ordinal} is absent");
    }
    let encode =
        |change: &Change| codec::encode_changes(std::slice::from_ref(change)).expect("it is short");
    for bytes in compare("changes.hex", &named(&all, encode)) {
        let decoded = decode_changes(&bytes).expect("recorded bytes are read");
        assert!(decoded.iter().all(|change| all.contains(change)));
    }
    let row = |change: &Change| {
        let row = table::row(change).expect("it is short");
        [row.key, vec![0xff], row.value.unwrap_or_default()].concat()
    };
    compare("rows.hex", &named(&all, row));
}

#[test]
fn replies_keep_their_bytes() {
    let all = replies();
    let encode = |reply: &codec::Reply| codec::encode_reply(reply).expect("it is short");
    compare("replies.hex", &named(&all, encode));
    let bytes = codec::encode_replies(&all).expect("they are few");
    assert_eq!(decode_replies(&bytes), Ok(all));
}

/// Within access, too, each variant has its place: the third byte, after the format and [`Command::Access`].
#[test]
fn variants_of_access_keep_their_places() {
    let mut seen = std::collections::BTreeSet::new();
    for command in samples_access::commands() {
        let bytes = codec::encode_command(&Command::Access(Box::new(command))).expect("short");
        seen.insert(bytes[2]);
    }
    assert_eq!(seen, (0..27).collect());
    let mut seen = std::collections::BTreeSet::new();
    for change in samples_access::changes() {
        let bytes = codec::encode_changes(&[Change::Access(change)]).expect("short");
        seen.insert(bytes[3]);
    }
    assert_eq!(seen, (0..26).collect());
}

#[test]
fn commands_do_not_nest() {
    let note = Box::new(samples_access::note());
    let plain = Command::Noted { note: note.clone(), command: Box::new(Command::ExpireDemands) };
    let bytes = codec::encode_command(&plain).expect("short");
    assert_eq!(decode_command(&bytes), Ok(plain.clone()));
    let mut nested = plain;
    for _ in 0..3 {
        nested = Command::Noted { note: note.clone(), command: Box::new(nested) };
    }
    let bytes = codec::encode_command(&nested).expect("short");
    assert!(matches!(decode_command(&bytes), Err(codec::CodecError::Malformed { .. })));
}

#[test]
fn a_batch_is_bounded() {
    let batch = Batch { at: Millis(1), commands: commands() };
    let bytes = codec::encode_batch(&batch).expect("it is short");
    assert_eq!(decode_batch(&bytes), Ok(batch));
    let many = Batch { at: Millis(1), commands: vec![Command::ExpireDemands; 513] };
    assert!(matches!(codec::encode_batch(&many), Err(codec::CodecError::TooMany { .. })));
    let value = vec![0; ollamamax_proto::limits::COMMAND_BYTES];
    let long = Command::PutCheckpoint { name: "x".into(), value, expected: None };
    assert!(matches!(codec::encode_command(&long), Err(codec::CodecError::TooLong { .. })));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(decode_batch(&longer), Err(codec::CodecError::Malformed { .. })));
    let mut newer = bytes;
    newer[0] = 2;
    assert!(matches!(decode_batch(&newer), Err(codec::CodecError::UnknownFormat { got: 2, .. })));
    assert!(decode_batch(&[]).is_err());
}
