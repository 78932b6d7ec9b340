//! The books, for the admin listener and `construct ledger verify`.

use std::time::Duration;

use crate::actors::billing::verify::{LedgerReport, verify};
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::Error;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/ledger/verify", "verifyLedger")
            .summary("Check that every transaction sums to zero and every invoice recomputes")
            .operations()
            .deadline(Duration::from_secs(600))
            .response::<LedgerReport>(200, "What was checked and what does not hold")
            .handle(verify_ledger),
    ]
}

async fn verify_ledger(call: Call<()>) -> Result<Reply, Error> {
    Ok(Reply::ok(&verify(&call.services.router).await?))
}
