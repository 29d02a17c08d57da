//! What a key may see of the tree: its tenant and everything below it (**S1**).

use super::{App, Caller, LimitUsage, Snapshot, Tenant};
use crate::time::Nanos;

impl Snapshot {
    /// The tenant of a key.
    pub fn tenant_of(&self, caller: Caller) -> &Tenant {
        &self.tenants[caller.tenant as usize]
    }

    /// The public id of a key.
    pub fn key_id_of(&self, caller: Caller) -> &str {
        self.keys[caller.key as usize].id.as_str()
    }

    /// The tenant with this id, where it is `root` or below it. One that stands elsewhere is
    /// answered like one that does not exist.
    pub fn within(&self, root: &Tenant, id: &str) -> Option<&Tenant> {
        self.tenant(id).filter(|tenant| root.holds(tenant))
    }

    /// The limits of a key itself, and their state.
    pub fn key_usage(&self, caller: Caller, now: Nanos) -> Vec<LimitUsage> {
        self.usage_of(&self.keys[caller.key as usize].own, now)
    }

    /// The apps a tenant may use, in the order in which it activated them.
    pub fn apps_of<'s>(&'s self, tenant: &'s Tenant) -> impl Iterator<Item = &'s App> {
        let rights = &tenant.rights;
        let usable = |app: &&u32| rights.granted.contains(**app) && !rights.over.contains(app);
        rights.activated.iter().filter(usable).map(|app| &self.apps[*app as usize])
    }
}

impl Tenant {
    /// Its time zone: its days and months are those of its clocks.
    pub fn zone(&self) -> &jiff::tz::TimeZone {
        self.days.zone()
    }

    /// Whether `other` is this tenant or below it.
    pub fn holds(&self, other: &Tenant) -> bool {
        self.relative(&other.path).is_some()
    }

    /// `path` as seen from here: without what is above, beginning with this tenant's own id.
    /// `None`: the path does not lead through this tenant.
    pub fn relative<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(&*self.path)?;
        let above = self.path.len() - self.id.len();
        (rest.is_empty() || rest.starts_with('/')).then(|| &path[above..])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::policy::{Policy, PolicySettings};
    use crate::{ApiKey, Nanos, Source};

    #[test]
    fn s1_a_key_sees_its_tenant_and_what_is_below() {
        let key = ApiKey::generate("test").expect("a key");
        let text = format!(
            r#"
[[app]]
id = "crm"
[[app]]
id = "ai"
[[plan]]
id = "p"
apps = ["ai"]
[[tenant]]
id = "acme"
plan = "p"
[[tenant]]
id = "web"
parent = "acme"
[[tenant]]
id = "web-two"
parent = "acme"
[[tenant]]
id = "shop"
parent = "web"
[[tenant]]
id = "we"
plan = "p"
[[key]]
id = "{}"
tenant = "web"
hash = "{}"
limits = [{{ name = "own", rate = 5, per = "second" }}]
"#,
            key.id, key.hash
        );
        let settings = PolicySettings {
            max_dynamic_keys: 1,
            hash_key: [0; 16],
            memory: crate::quota::InMemory::shared(),
        };
        let source = Source { file: "p.toml".into(), text };
        let snapshot = Policy::new(&[source], &settings, 0).expect("valid").load();
        let caller = snapshot.identify(Some(key.reveal().as_bytes())).expect("known");
        let web = snapshot.tenant_of(caller);
        assert_eq!((&*web.id, snapshot.key_id_of(caller)), ("web", key.id.as_str()));
        let seen = |id: &str| snapshot.within(web, id).is_some();
        assert_eq!(["web", "shop"].map(seen), [true; 2]);
        // A sibling whose id begins with ours, the parent, another root, nobody.
        assert_eq!(["web-two", "acme", "we", "nobody", ""].map(seen), [false; 5]);
        assert_eq!(web.relative("acme/web/shop"), Some("web/shop"));
        assert_eq!(web.relative("acme/web"), Some("web"));
        assert_eq!(web.relative("acme/web-two"), None);
        let apps: Vec<&str> = snapshot.apps_of(web).map(|app| &*app.id).collect();
        assert_eq!(apps, ["ai"]);
        let own = snapshot.key_usage(caller, Nanos(0));
        assert_eq!(own.iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>(), ["own"]);
    }
}
