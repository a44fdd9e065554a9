//! Which commands may be proposed again when nobody knows what became of the first attempt.

use ollamamax_core::Command;
use ollamamax_core::access::AccessCommand;

/// Whether doing it twice is the same as once, also with other commands in between.
///
/// Puts of checkpoints are not here: a second application could undo a later acknowledged write, which nobody who
/// compares histories would forgive. A model's put is: it is repeated with the same bytes within seconds, and losing an
/// upload of gigabytes to a change of leaders is worse than renewing a name.
pub fn may_repeat(command: &Command) -> bool {
    match command {
        Command::Bootstrap { .. }
        | Command::AdmitNode { .. }
        | Command::AnnounceNode { .. }
        | Command::PromoteNode { .. }
        | Command::PutModel { .. }
        | Command::RollOut { .. }
        | Command::DemandModel { .. }
        | Command::ExpireDemands
        | Command::RegisterWorker { .. }
        | Command::SetWorkerStatus { .. }
        | Command::ReportPlacements { .. }
        | Command::Deploy { .. }
        | Command::LabelWorker { .. } => true,
        Command::RemoveNode { .. }
        | Command::ForgetNode { .. }
        | Command::CopyModel { .. }
        | Command::DeleteModel { .. }
        | Command::ReleaseModel { .. }
        | Command::RemoveWorker { .. }
        | Command::ApplyPlan { .. }
        | Command::PutCheckpoint { .. }
        | Command::DeleteCheckpoint { .. }
        | Command::ClearDeployment { .. }
        | Command::DrainWorker { .. }
        | Command::ResumeWorker { .. }
        | Command::MigrateModel { .. }
        | Command::ScaleModel { .. }
        | Command::ShiftTraffic { .. }
        | Command::RevertRollout { .. }
        | Command::AdoptServer { .. }
        | Command::ReleaseServer { .. } => false,
        // The trail then tells of both, as it should: both happened.
        Command::Noted { command, .. } => may_repeat(command),
        // A refresh is answered the same way twice; whoever asked has not used the answer yet.
        Command::Access(command) => matches!(
            **command,
            AccessCommand::RefreshSession { .. }
                | AccessCommand::Expire
                | AccessCommand::PutRole { .. }
        ),
    }
}
