//! Contracts to [`Rights`], each combination once.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::edges::Routes;
use super::products::Products;
use crate::snapshot::{Contract, Rights, Shelf};

pub(super) struct Entitler<'e> {
    shelf: Shelf<'e>,
    routes: &'e Routes<'e>,
    /// Tenants on the same terms share them.
    shared: HashMap<Contract, Arc<Rights>, FixedState>,
}

impl<'e> Entitler<'e> {
    pub(super) fn new(products: &'e Products<'e>, routes: &'e Routes<'e>) -> Self {
        Entitler { shelf: products.shelf(), routes, shared: HashMap::default() }
    }

    /// The rights of a tenant: by its own plan, or else by what the tenant above has. `None`: there
    /// is neither.
    pub(super) fn rights(
        &mut self,
        contract: &Contract,
        above: Option<&Arc<Rights>>,
    ) -> Option<Arc<Rights>> {
        if let Some(plan) = contract.plan {
            if let Some(rights) = self.shared.get(contract) {
                return Some(Arc::clone(rights));
            }
            let rights = self.opened(self.shelf.with_plan(plan, contract));
            self.shared.insert(contract.clone(), Arc::clone(&rights));
            return Some(rights);
        }
        let above = above?;
        if *contract == Contract::default() {
            return Some(Arc::clone(above));
        }
        Some(self.opened(self.shelf.below(above, contract)))
    }

    fn opened(&self, mut rights: Rights) -> Arc<Rights> {
        rights.open(&self.routes.routes);
        Arc::new(rights)
    }
}
