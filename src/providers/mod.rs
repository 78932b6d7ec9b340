//! Narrow traits for the outside world, one file per vendor: mail, SMS, push, payment, keys.
