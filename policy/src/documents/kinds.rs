//! Most kinds of tables, field by field, with their units and bounds.

use super::contract::{ContractDoc, price, when};
use super::fields::{Fields, Located, Text};
use super::limit::LimitDoc;
use super::quota::{QuotaDoc, quotas};
use crate::dates::When;
use crate::diagnostics::Place;
use crate::price::Price;
use crate::snapshot::{ApiTier, Level, Status, SupportLevel};

#[derive(Debug)]
pub(crate) struct PlanDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) title: Option<Text<'i>>,
    pub(crate) users: Option<u64>,
    pub(crate) app_count: Option<u64>,
    pub(crate) storage_gb: Option<u64>,
    pub(crate) support: SupportLevel,
    pub(crate) api_tier: ApiTier,
    /// `None`: every app there is.
    pub(crate) apps: Option<Vec<Located<Text<'i>>>>,
    /// Several versions of a plan stand side by side.
    pub(crate) version: Located<u32>,
    /// From when on it is offered. `None`: since ever.
    pub(crate) from: Option<Located<When>>,
    pub(crate) features: Vec<Located<Text<'i>>>,
    /// Whether those who are not on it are told of it.
    pub(crate) public: bool,
    pub(crate) price: Option<Price>,
    pub(crate) limits: Vec<LimitDoc<'i>>,
    pub(crate) quotas: Vec<QuotaDoc<'i>>,
}

pub(super) const MAX_COUNT: u64 = 1 << 40;
pub(super) const SUPPORT: &[(&str, SupportLevel)] = &[
    ("8/5", SupportLevel::Basic),
    ("12/7", SupportLevel::Premium),
    ("24/7", SupportLevel::Enterprise),
];
pub(super) const TIERS: &[(&str, ApiTier)] =
    &[("basic", ApiTier::Basic), ("complete", ApiTier::Complete), ("premium", ApiTier::Premium)];

pub(super) fn limits<'i>(fields: &mut Fields<'_, 'i, '_>) -> Vec<LimitDoc<'i>> {
    fields.tables("limits", LimitDoc::read).map_or_else(Vec::new, |limits| limits.value)
}

impl<'i> PlanDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let title = fields.text("title").map(|title| title.value);
        let users = fields.integer("users", 1, MAX_COUNT).map(|n| n.value);
        let app_count = fields.integer("app_count", 1, MAX_COUNT).map(|n| n.value);
        let storage_gb = fields.integer("storage_gb", 1, MAX_COUNT).map(|n| n.value);
        let support = fields.word("support", SUPPORT).map_or(SupportLevel::Basic, |s| s.value);
        let api_tier = fields.word("api_tier", TIERS).map_or(ApiTier::Basic, |t| t.value);
        let apps = fields.texts("apps");
        let version = fields.integer("version", 1, u64::from(u32::MAX));
        let version = version.map_or(Located { value: 1, place: fields.place }, |version| {
            Located { value: version.value as u32, place: version.place }
        });
        let from = when(&mut fields, "from");
        let features = fields.texts("features").unwrap_or_default();
        let public = fields.boolean("public").unwrap_or(true);
        let price = price(&mut fields);
        let limits = limits(&mut fields);
        let quotas = quotas(&mut fields);
        fields.finish();
        let id = id?;
        Some(PlanDoc {
            id,
            title,
            users,
            app_count,
            storage_gb,
            support,
            api_tier,
            apps,
            version,
            from,
            features,
            public,
            price,
            limits,
            quotas,
        })
    }
}

#[derive(Debug)]
pub(crate) struct AddonDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) title: Option<Text<'i>>,
    pub(crate) apps: Vec<Located<Text<'i>>>,
    pub(crate) features: Vec<Located<Text<'i>>>,
    /// Support at the least.
    pub(crate) support: Option<SupportLevel>,
    pub(crate) price: Option<Price>,
}

impl<'i> AddonDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let title = fields.text("title").map(|title| title.value);
        let apps = fields.texts("apps").unwrap_or_default();
        let features = fields.texts("features").unwrap_or_default();
        let support = fields.word("support", SUPPORT).map(|support| support.value);
        let price = price(&mut fields);
        fields.finish();
        let id = id?;
        Some(AddonDoc { id, title, apps, features, support, price })
    }
}

#[derive(Debug)]
pub(crate) struct AppDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) title: Option<Text<'i>>,
    pub(crate) end_user_header: Option<Located<Text<'i>>>,
}

impl<'i> AppDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let title = fields.text("title").map(|title| title.value);
        let end_user_header = fields.text("end_user_header");
        if let Some(header) = &end_user_header
            && !is_token(&header.value)
        {
            fields.find(header.place, "end_user_header", "is not a header name");
        }
        fields.finish();
        let id = id?;
        Some(AppDoc { id, title, end_user_header })
    }
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let extra = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
}

#[derive(Debug)]
pub(crate) struct RouteDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) app: Located<Text<'i>>,
    pub(crate) host: Option<Located<Text<'i>>>,
    pub(crate) path: Located<Text<'i>>,
    pub(crate) methods: Option<Vec<Located<Text<'i>>>>,
    pub(crate) upstream: Located<Text<'i>>,
    pub(crate) meter: Option<Located<Text<'i>>>,
    pub(crate) cost: u32,
    /// The least API tier that may use it.
    pub(crate) tier: ApiTier,
    /// The feature a tenant must have to use it.
    pub(crate) feature: Option<Located<Text<'i>>>,
    /// Without a finding of its own: what is missing is not there, rather than wrong.
    pub(crate) clean: bool,
}

impl<'i> RouteDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let app = fields.required_text("app");
        let host = fields.text("host");
        let path = fields.text("path");
        let methods = fields.texts("methods");
        let upstream = fields.required_text("upstream");
        let meter = fields.text("meter");
        let cost = fields.integer("cost", 0, 1_000_000).map_or(1, |cost| cost.value as u32);
        let tier = fields.word("tier", TIERS).map_or(ApiTier::Basic, |tier| tier.value);
        let feature = fields.text("feature");
        if let Some(path) = &path {
            let fits = path.value.starts_with('/') && !path.value.contains(['?', '#', ' ']);
            if !fits {
                fields.find(path.place, "path", "a path prefix starts with `/` and has no query");
            } else if is_reserved_path(&path.value) {
                fields.find(path.place, "path", "paths from `/orbit` on are the gateway's own");
            }
        }
        for method in methods.iter().flatten() {
            let fits =
                is_token(&method.value) && !method.value.bytes().any(|b| b.is_ascii_lowercase());
            if !fits {
                fields.find(method.place, "methods", "a method is an upper-case word such as GET");
            }
        }
        let path = path.unwrap_or(Located { value: Text::Borrowed("/"), place: fields.place });
        let clean = fields.finish();
        let (id, app, upstream) = (id?, app?, upstream?);
        Some(RouteDoc { id, app, host, path, methods, upstream, meter, cost, tier, feature, clean })
    }
}

/// Whether the gateway answers a request of this path itself: no route may have it.
pub fn is_reserved_path(path: &str) -> bool {
    path.strip_prefix("/orbit").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[derive(Debug)]
pub(crate) struct TenantDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) parent: Option<Located<Text<'i>>>,
    pub(crate) level: Option<Located<Level>>,
    pub(crate) plan: Option<Located<Text<'i>>>,
    pub(crate) addons: Vec<Located<Text<'i>>>,
    pub(crate) status: Option<Status>,
    /// An IANA zone.
    pub(crate) zone: Option<Located<Text<'i>>>,
    pub(crate) billing_day: Option<u8>,
    pub(crate) contract: ContractDoc<'i>,
    pub(crate) limits: Vec<LimitDoc<'i>>,
    pub(crate) quotas: Vec<QuotaDoc<'i>>,
    /// As in [`RouteDoc`].
    pub(crate) clean: bool,
}

const LEVELS: &[(&str, Level)] = &[
    ("holding", Level::Holding),
    ("subsidiary", Level::Subsidiary),
    ("business_unit", Level::BusinessUnit),
    ("department", Level::Department),
    ("team", Level::Team),
    ("project", Level::Project),
];
pub(super) const STATUSES: &[(&str, Status)] =
    &[("active", Status::Active), ("suspended", Status::Suspended), ("unpaid", Status::Unpaid)];

impl<'i> TenantDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let parent = fields.text("parent");
        fields.for_people("title");
        let level = fields.word("level", LEVELS);
        let plan = fields.text("plan");
        let addons = fields.texts("addons").unwrap_or_default();
        let status = fields.word("status", STATUSES).map(|status| status.value);
        let zone = fields.text("zone");
        let billing_day = fields.integer("billing_day", 1, 31).map(|day| day.value as u8);
        let contract = ContractDoc::read(&mut fields);
        let limits = limits(&mut fields);
        let quotas = quotas(&mut fields);
        let clean = fields.finish();
        let id = id?;
        Some(TenantDoc {
            id,
            parent,
            level,
            plan,
            addons,
            status,
            zone,
            billing_day,
            contract,
            limits,
            quotas,
            clean,
        })
    }
}

#[derive(Debug)]
pub(crate) struct KeyDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) tenant: Located<Text<'i>>,
    pub(crate) hash: Located<[u8; 32]>,
    pub(crate) disabled: bool,
    pub(crate) limits: Vec<LimitDoc<'i>>,
    pub(crate) place: Place,
}

impl<'i> KeyDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.required_text("id");
        let tenant = fields.required_text("tenant");
        let hash = fields.required_text("hash");
        fields.for_people("label");
        let disabled = fields.boolean("disabled").unwrap_or(false);
        let limits = limits(&mut fields);
        let hash = hash.and_then(|text| {
            if let Some(value) = decode_hash(&text.value) {
                Some(Located { value, place: text.place })
            } else {
                let message = "is not `sha256:` and 64 hexadecimal digits (see `orbit key new`)";
                fields.find(text.place, "hash", message);
                None
            }
        });
        let place = fields.place;
        fields.finish();
        let (id, tenant) = (id?, tenant?);
        // A hash that is missing or wrong has a finding: nothing is made of this document.
        let hash = hash.unwrap_or(Located { value: [0; 32], place });
        Some(KeyDoc { id, tenant, hash, disabled, limits, place })
    }
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.strip_prefix("sha256:")?.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(hash)
}
