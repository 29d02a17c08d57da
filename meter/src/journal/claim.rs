//! Which lane a thread appends to: found in a thread-local, given back when the thread ends.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::lane::Lane;
use super::{AppendError, Shared};

thread_local! {
    /// This thread's lanes, one per journal it has appended to; nearly always exactly one.
    static CLAIMS: RefCell<Vec<Claim>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Claim {
    journal: u64,
    lane: Arc<Lane>,
    owner: Weak<Shared>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.give_back(&self.lane);
        }
    }
}

/// Runs `append` on the calling thread's lane.
#[inline]
pub(super) fn with_lane<R>(
    shared: &Arc<Shared>,
    mut append: impl FnMut(&Lane) -> Result<R, AppendError>,
) -> Result<R, AppendError> {
    let done = CLAIMS.try_with(|claims| {
        let mut claims = claims.try_borrow_mut().ok()?;
        if let Some(claim) = claims.iter().find(|claim| claim.journal == shared.id) {
            return Some(append(&claim.lane));
        }
        Some(first(shared, &mut claims).and_then(&mut append))
    });
    if let Ok(Some(result)) = done {
        return result;
    }
    // The thread is ending and its claims are gone: a lane for this one event.
    let claim = make(shared)?;
    append(&claim.lane)
}

#[cold]
fn first<'a>(shared: &Arc<Shared>, claims: &'a mut Vec<Claim>) -> Result<&'a Lane, AppendError> {
    claims.retain(|claim| claim.owner.upgrade().is_some_and(|owner| !owner.is_closed()));
    claims.push(make(shared)?);
    Ok(&claims.last().expect("just pushed").lane)
}

fn make(shared: &Arc<Shared>) -> Result<Claim, AppendError> {
    let lane = shared.claim_lane()?;
    Ok(Claim { journal: shared.id, lane, owner: Arc::downgrade(shared) })
}
