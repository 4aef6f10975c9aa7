//! Object storage behind an origin's address: what is asked for there, and with which credential.

use std::path::{Path, PathBuf};

/// `s3` or `azure` of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Whose protocol, and the credential.
    pub kind: StorageKind,
    /// The bucket, or container.
    pub bucket: String,
    /// Put before every key, without a slash at its start; `""` for none.
    pub prefix: String,
    /// Object served for paths that end in a slash; `None`: they are not found.
    pub index: Option<String>,
}

/// A protocol and its credential. Secrets stay in their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// Amazon's, and of all who speak it: signature version 4.
    S3 {
        /// Part of the signature; often `us-east-1` or `auto` where it means nothing.
        region: String,
        /// Where the bucket is named.
        style: BucketStyle,
        /// The public half of the credential.
        access_key_id: String,
        /// Holds the secret access key.
        secret_file: PathBuf,
    },
    /// Azure Blob Storage with an account key.
    AzureKey {
        /// The storage account.
        account: String,
        /// Whether the account is the first segment of paths, as in emulators.
        path_style: bool,
        /// Holds the account key, in base64.
        secret_file: PathBuf,
    },
    /// Azure Blob Storage with a shared access signature.
    AzureSas {
        /// The storage account.
        account: String,
        /// Whether the account is the first segment of paths, as in emulators.
        path_style: bool,
        /// Holds the signature, `sv=…&sig=…`.
        secret_file: PathBuf,
    },
}

/// Where an S3 request names its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketStyle {
    /// First in the path.
    Path,
    /// Before the endpoint's host.
    VirtualHost,
}

impl Storage {
    /// The file with the secret half of the credential.
    pub fn secret_file(&self) -> &Path {
        match &self.kind {
            StorageKind::S3 { secret_file, .. }
            | StorageKind::AzureKey { secret_file, .. }
            | StorageKind::AzureSas { secret_file, .. } => secret_file,
        }
    }
}
