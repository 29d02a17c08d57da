//! The documents of the test: a tree whose tenants move, plans that come and go, quotas of everything.

use std::collections::BTreeMap;

use orbit_policy::ApiKey;

use crate::Random;

pub(crate) const TENANTS: [&str; 6] = ["acme", "brasil", "web", "shop", "north", "globex"];
const METERS: [&str; 9] = [
    "api_calls",
    "visits",
    "reports",
    "weight",
    "imports",
    "processing",
    "data_in",
    "data_out",
    "active_users",
];
const PERIODS: [&str; 5] = ["hour", "day", "month", "year", "billing_period"];

/// A quota of a tenant: its name, meter, period and limit.
#[derive(Clone)]
struct Quota {
    name: String,
    meter: &'static str,
    per: &'static str,
    limit: u64,
}

pub(crate) struct World {
    pub(crate) keys: BTreeMap<&'static str, ApiKey>,
    pub(crate) parents: BTreeMap<&'static str, &'static str>,
    /// Plans of their own.
    pub(crate) plans: BTreeMap<&'static str, &'static str>,
    zones: BTreeMap<&'static str, &'static str>,
    quotas: BTreeMap<&'static str, Vec<Quota>>,
    renamed: u32,
    /// Where upstreams listen; filled in by the gateway.
    pub(crate) upstream: &'static str,
}

fn quota(meter: &'static str, per: &'static str, limit: u64) -> Quota {
    Quota { name: format!("{meter}-{per}"), meter, per, limit }
}

impl Quota {
    fn text(&self) -> String {
        let Quota { name, meter, per, limit } = self;
        format!("{{ name = \"{name}\", meter = \"{meter}\", per = \"{per}\", limit = {limit} }},")
    }
}

impl World {
    pub(crate) fn new() -> World {
        let keys = TENANTS.map(|tenant| (tenant, ApiKey::generate("test").unwrap()));
        let mut quotas: BTreeMap<_, Vec<Quota>> = BTreeMap::new();
        for (place, meter) in METERS.into_iter().enumerate() {
            for (shift, tenant) in TENANTS.into_iter().enumerate() {
                let per = PERIODS[(place + shift) % PERIODS.len()];
                quotas.entry(tenant).or_default().push(quota(meter, per, 1_000_000_000));
            }
        }
        // Used up soon.
        quotas
            .entry("shop")
            .or_default()
            .push(Quota { name: "tight".to_owned(), ..quota("reports", "year", 9) });
        World {
            keys: BTreeMap::from(keys),
            parents: BTreeMap::from([
                ("brasil", "acme"),
                ("web", "brasil"),
                ("shop", "brasil"),
                ("north", "acme"),
            ]),
            // The same plan as above, but one of its own; and another one.
            plans: BTreeMap::from([("acme", "p"), ("north", "p"), ("globex", "q")]),
            // Each its own, or who moves would come into other windows.
            zones: BTreeMap::from([
                ("acme", "America/Sao_Paulo"),
                ("brasil", "America/Sao_Paulo"),
                ("web", "Asia/Kathmandu"),
                ("shop", "UTC"),
                ("north", "Europe/Berlin"),
                ("globex", "Asia/Tokyo"),
            ]),
            quotas,
            renamed: 0,
            upstream: "{upstream}",
        }
    }

    pub(crate) fn chain(&self, tenant: &'static str) -> Vec<&'static str> {
        let above = |tenant: &&'static str| self.parents.get(tenant).copied();
        std::iter::successors(Some(tenant), above).collect()
    }

    /// Another parent for somebody, never in a circle.
    pub(crate) fn move_somebody(&mut self, random: &mut Random) {
        let tenant = *random.pick(&["web", "shop", "north", "brasil"]);
        let parent = *random.pick(&TENANTS);
        if !self.chain(parent).contains(&tenant) {
            self.parents.insert(tenant, parent);
        }
    }

    /// One quota more, another name, another period, or another zone.
    pub(crate) fn change_quotas(&mut self, random: &mut Random) {
        let tenant = *random.pick(&TENANTS);
        let meter = *random.pick(&METERS);
        let per = *random.pick(&PERIODS);
        self.renamed += 1;
        let name = format!("later-{}", self.renamed);
        let mine = self.quotas.entry(tenant).or_default();
        let place = random.below(mine.len() as u64) as usize;
        match random.below(4) {
            0 => mine.push(Quota { name, ..quota(meter, per, 1_000_000_000) }),
            1 => mine[place].name = name,
            2 => {
                mine[place].per = per;
            }
            _ => {
                let zone = *random.pick(&["UTC", "Europe/Berlin", "Australia/Lord_Howe"]);
                self.zones.insert(tenant, zone);
            }
        }
    }

    /// A plan of its own for somebody who had none, or none any more.
    pub(crate) fn change_plans(&mut self, random: &mut Random) -> bool {
        let tenant = *random.pick(&["web", "brasil", "north"]);
        if self.plans.remove(tenant).is_none() {
            self.plans.insert(tenant, "q");
        }
        true
    }

    pub(crate) fn text(&self) -> String {
        let upstream = self.upstream;
        let mut text =
            format!("[[upstream]]\nid = \"u\"\npeers = [{{ address = \"{upstream}\" }}]\n");
        for plan in ["p", "q"] {
            let all = METERS.map(|meter| quota(meter, "month", 2_000_000_000).text()).concat();
            text.push_str(&format!(
                "[[plan]]\nid = \"{plan}\"\nstorage_gb = 1\nquotas = [{all}]\n"
            ));
        }
        text.push_str("[[app]]\nid = \"crm\"\nend_user_header = \"X-User\"\n");
        for (id, more) in [
            ("one", ""),
            ("three", "cost = 3\n"),
            ("visits", "cost = 3\nmeter = \"visits\"\n"),
            ("reports", "cost = 2\nmeter = \"reports\"\n"),
            ("other", "meter = \"others\"\n"),
        ] {
            text.push_str(&format!(
                "[[route]]\nid = \"{id}\"\npath = \"/{id}\"\napp = \"crm\"\nupstream = \"u\"\n{more}"
            ));
        }
        for (id, aggregate, value, more) in [
            ("visits", "count", "cost", ""),
            ("weight", "sum", "request_header:X-Weight", ""),
            ("imports", "count", "request_header:X-Import", "routes = [\"one\", \"visits\"]\n"),
            ("storage", "gauge", "request_bytes", "routes = [\"one\", \"other\"]\n"),
            ("seats", "gauge", "response_header:X-Seats", ""),
        ] {
            text.push_str(&format!(
                "[[meter]]\nid = \"{id}\"\naggregate = \"{aggregate}\"\nvalue = \"{value}\"\n{more}"
            ));
        }
        for tenant in TENANTS {
            text.push_str(&format!("[[tenant]]\nid = \"{tenant}\"\nlevel = \"project\"\n"));
            for (field, of) in
                [("parent", &self.parents), ("plan", &self.plans), ("zone", &self.zones)]
            {
                if let Some(value) = of.get(tenant) {
                    text.push_str(&format!("{field} = \"{value}\"\n"));
                }
            }
            let quotas: String = self.quotas[tenant].iter().map(Quota::text).collect();
            let seats = "{ name = \"seats\", meter = \"seats\", limit = 1_000_000 },";
            let key = &self.keys[tenant];
            text.push_str(&format!(
                "billing_day = 31\nquotas = [{quotas}{seats}]\n\
                 [[key]]\nid = \"{}\"\ntenant = \"{tenant}\"\nhash = \"{}\"\n",
                key.id, key.hash
            ));
        }
        text
    }
}
