//! A private file, sealed so that one node alone can open it (HPKE, RFC 9180).
//!
//! DHKEM(X25519), HKDF-SHA256, AES-256-GCM in base mode: who made it is said by the snapshot's signature,
//! not by the seal. The path is bound in as associated data, so a sealed key can't be moved to another name.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};

/// Binds the seal to its purpose.
const INFO: &[u8] = b"nearside seal 1";
/// Bytes of an X25519 key and of an encapsulated secret.
const KEY_BYTES: usize = 32;

/// Why something could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a key of ours.
    #[error("expected an X25519 key as base64 of {KEY_BYTES} bytes")]
    Key,
    /// Sealed for somebody else, moved to another path, or damaged.
    #[error("it was not sealed for this node and this path, or it is damaged")]
    Open,
    /// The library refuses.
    #[error("sealing failed")]
    Seal,
}

/// What a node opens with. Stays on the node (and where its identity was made).
pub struct OpeningKey(HpkePrivateKey);

/// What home seals with.
#[derive(Clone, Debug)]
pub struct SealingKey(HpkePublicKey);

/// A new pair, and the text forms for files: base64 of 32 bytes each, opening key first.
///
/// # Errors
/// [`SealError::Seal`] if the system gives no randomness.
pub fn generate() -> Result<(String, String), SealError> {
    let (public, private) = SUITE.generate_key_pair().map_err(|_| SealError::Seal)?;
    Ok((BASE64.encode(private.secret_bytes()) + "\n", BASE64.encode(&public.0) + "\n"))
}

impl OpeningKey {
    /// Reads the opening half of what [`generate`] gave.
    ///
    /// # Errors
    /// [`SealError::Key`] if it is something else.
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        Ok(Self(HpkePrivateKey::from(key_bytes(text)?)))
    }

    /// Opens what was sealed for this key and this path.
    ///
    /// # Errors
    /// [`SealError::Open`].
    pub fn open(&self, path: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (secret, ciphertext) = sealed.split_at_checked(KEY_BYTES).ok_or(SealError::Open)?;
        let secret = EncapsulatedSecret(secret.to_vec());
        SUITE.open(&secret, INFO, path.as_bytes(), ciphertext, &self.0).map_err(|_| SealError::Open)
    }
}

impl SealingKey {
    /// Reads the sealing half of what [`generate`] gave.
    ///
    /// # Errors
    /// [`SealError::Key`] if it is something else.
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        Ok(Self(HpkePublicKey(key_bytes(text)?)))
    }

    /// Seals `content`, to be opened under the same `path`: the encapsulated secret, then the ciphertext.
    /// Different at every call.
    ///
    /// # Errors
    /// [`SealError::Seal`] if the key is not a point of the curve.
    pub fn seal(&self, path: &str, content: &[u8]) -> Result<Vec<u8>, SealError> {
        let (secret, ciphertext) =
            SUITE.seal(INFO, path.as_bytes(), content, &self.0).map_err(|_| SealError::Seal)?;
        Ok([secret.0, ciphertext].concat())
    }
}

fn key_bytes(text: &str) -> Result<Vec<u8>, SealError> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| SealError::Key)?;
    if bytes.len() == KEY_BYTES { Ok(bytes) } else { Err(SealError::Key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_opens_and_only_at_the_right_path() {
        let (opening, sealing) = generate().unwrap();
        let (other, _) = generate().unwrap();
        let key = OpeningKey::from_text(&opening).unwrap();
        let sealed = SealingKey::from_text(&sealing).unwrap().seal("etc/key.pem", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key.open("etc/key.pem", &sealed).unwrap(), b"secret");
        assert_eq!(key.open("etc/other.pem", &sealed), Err(SealError::Open));
        assert_eq!(OpeningKey::from_text(&other).unwrap().open("etc/key.pem", &sealed), Err(SealError::Open));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open("etc/key.pem", &damaged), Err(SealError::Open), "byte {at}");
        }
        assert_eq!(key.open("etc/key.pem", &sealed[..20]), Err(SealError::Open));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(SealingKey::from_text("x"), Err(SealError::Key)));
        assert!(matches!(OpeningKey::from_text("AAAA"), Err(SealError::Key)));
    }
}
