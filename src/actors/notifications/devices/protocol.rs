//! Commands, events and replies of devices. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::providers::push::Subscription;

/// How a device is addressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    WebPush(Subscription),
    /// E.164.
    Sms {
        number: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `dev_…`
    pub id: String,
    pub name: String,
    pub address: Address,
    /// A subscription is its browser's word; a number must be proven.
    pub verified: bool,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Register {
        name: String,
        address: Address,
    },
    /// Proves a number with the code sent to it.
    Verify {
        id: String,
        code: String,
    },
    Remove {
        id: String,
    },
    /// The push service says that the device does not exist any more.
    Forget {
        id: String,
    },
    List,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Registered { device: Device },
    CodeSent { id: String, code: String, expires: Timestamp },
    CodeRefused { id: String },
    Verified { id: String },
    Removed { id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Device(Device),
    Devices(Vec<Device>),
    /// The code was wrong; the attempt was counted.
    WrongCode,
    Done,
}
