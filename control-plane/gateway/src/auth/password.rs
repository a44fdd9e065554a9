//! Passwords: Argon2id with 19 MiB and two passes (OWASP's first choice), few at a time, so that logins cannot take the
//! machine's memory.

use crate::error::Failure;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use ollamamax_core::access::Hidden;
use ollamamax_proto::limits;
use std::sync::LazyLock;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

static PLACES: Semaphore = Semaphore::const_new(limits::PASSWORD_CHECKS_COUNT);

/// What a wrong name is checked against: the same work as for a right one.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let hash = Argon2::default().hash_password(crate::secrets::random_text().as_bytes());
    hash.map(|hash| hash.to_string()).unwrap_or_default()
});

/// Refuses passwords that are too short to be worth a hash, or too long to be worth reading.
pub fn check(password: &str) -> Result<(), Failure> {
    let (least, most) = (limits::PASSWORD_MIN_CHARS, limits::PASSWORD_BYTES);
    if password.chars().count() < least || password.len() > most {
        return Err(Failure::InvalidField {
            field: "password",
            text: format!(
                "`password` must have {least} characters or more, and at most {most} bytes"
            ),
        });
    }
    Ok(())
}

/// The hash to keep, in PHC form.
pub async fn hash(password: Zeroizing<String>) -> Result<Hidden<String>, Failure> {
    let work = move || Argon2::default().hash_password(password.as_bytes()).map(|h| h.to_string());
    let hashed = beside(work).await?;
    hashed.map(Hidden).map_err(|error| Failure::Internal(format!("hashing failed: {error}")))
}

/// Whether `password` has that hash; `None` stands for a user that is not there, and takes as long.
pub async fn verify(password: Zeroizing<String>, kept: Option<String>) -> Result<bool, Failure> {
    let work = move || {
        let is_there = kept.is_some();
        let kept = kept.unwrap_or_else(|| NOBODY.clone());
        let parsed = PasswordHash::new(&kept);
        let fits = parsed.is_ok_and(|kept| {
            Argon2::default().verify_password(password.as_bytes(), &kept).is_ok()
        });
        fits && is_there
    };
    beside(work).await
}

async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let wait = std::time::Duration::from_millis(limits::PASSWORD_WAIT_MS);
    let place = tokio::time::timeout(wait, PLACES.acquire()).await.map_err(|_| {
        Failure::unavailable("too many passwords are being checked; try again in a moment")
    })?;
    let done = tokio::task::spawn_blocking(work).await;
    drop(place);
    done.map_err(|error| Failure::Internal(format!("a password could not be checked: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_kept_as_argon2id_and_known_again() {
        let secret = || Zeroizing::new("correct horse".to_owned());
        let Hidden(kept) = hash(secret()).await.expect("hashed");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(verify(secret(), Some(kept.clone())).await.expect("checked"));
        let wrong = Zeroizing::new("battery staple".to_owned());
        assert!(!verify(wrong, Some(kept)).await.expect("checked"));
        assert!(!verify(secret(), None).await.expect("checked"));
        assert!(!verify(secret(), Some("$argon2id$broken".into())).await.expect("checked"));
    }
}
