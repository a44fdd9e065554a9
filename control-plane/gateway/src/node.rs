//! What a node asks of its own gateway beside serving: to note and slow down what it refuses itself, and to make keys.

use crate::Gateway;
use ollamamax_proto::audit::Note;
use std::net::IpAddr;

impl Gateway {
    /// Puts a refusal, or what was done without a change of the state, into the trail, with others of the same moment. Never waits.
    pub fn note_refusal(&self, note: Note) {
        self.refusals.add(note);
    }

    /// Whether so much from `address` was refused lately that nothing is looked at for a while.
    pub fn holds_off(&self, address: IpAddr) -> bool {
        self.throttle.refuses(Some(address)).is_some()
    }

    /// Something from `address` was refused.
    pub fn count_refusal(&self, address: IpAddr) {
        self.throttle.failed(Some(address));
    }

    /// Makes a key that signs access tokens, and has it taken in as an act of the cluster itself.
    ///
    /// # Errors
    /// In words, when it could not be made or was not taken in.
    pub async fn make_signing_key(&self) -> Result<(), String> {
        let note = Note {
            actor: "system".to_owned(),
            action: "signing-key.rotate".to_owned(),
            object: "signing-keys".to_owned(),
            ..Note::default()
        };
        let made = self.new_signing_key(false, None, |command| (note, command)).await;
        made.map(drop).map_err(|failure| failure.to_string())
    }
}
