//! The smoke of the chaos suite: a little of every kind of fault, and every checker.

use crate::binary;
use ollamamax_chaos::{Grade, run, scenario};

/// Decides when what goes wrong.
const SEED: u64 = 11;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_its_promises_while_members_die_stop_and_are_cut_off() {
    let all = scenario::shipped().expect("scenarios");
    let smoke = all.iter().find(|scenario| scenario.smoke).expect("a smoke");
    let done = run(smoke, SEED, binary(), None).await.expect("the run can be made");
    assert_eq!(done.grade(), Grade::Pass, "{done}");
}
