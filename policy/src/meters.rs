//! What is counted: the meters of a snapshot, and how each comes to its figure.
//!
//! A meter has one way to add up ([`Aggregate`]) and one place its values come from at the edge
//! ([`MeterValue`]); any meter also takes CloudEvents of its id. A snapshot holds every meter there
//! is, by id: those of `[[meter]]` tables, the built-in ones no table defines otherwise, and for
//! each other name that a route counts on, a sum of the route's cost.

pub mod figure;

/// Most meters a route is measured by besides its own, distinct ones not counted: what a request
/// keeps room for.
pub const MAX_MEASURED: usize = 8;

/// Most meters of distinct ones a route may have: as many members a request keeps room for.
pub const MAX_DISTINCT: usize = 4;

/// The built-in meter of body bytes from clients. It has no rows of its own: the bytes are columns
/// of every row.
pub const DATA_IN: &str = "data_in";

/// The built-in meter of body bytes to clients; as [`DATA_IN`].
pub const DATA_OUT: &str = "data_out";

/// The gauge that `storage_gb` of plans is a quota of.
pub(crate) const STORAGE: &str = "storage";

/// The meter of a route that names none.
pub(crate) const DEFAULT_METER: &str = "api_calls";

/// A meter's place in [`Snapshot::meters`](crate::Snapshot::meters). Another snapshot may have it
/// elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeterId(pub u32);

/// How a meter's values become its figure for a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// How many there were.
    Count,
    /// What they add up to.
    Sum,
    /// The largest.
    Max,
    /// How many different ones there were.
    Distinct,
    /// The latest.
    Last,
    /// A level that lasts: events say how high it is, requests by how much it changes.
    Gauge,
}

impl Aggregate {
    /// The name in documents and queries.
    pub fn as_str(self) -> &'static str {
        match self {
            Aggregate::Count => "count",
            Aggregate::Sum => "sum",
            Aggregate::Max => "max",
            Aggregate::Distinct => "distinct",
            Aggregate::Last => "last",
            Aggregate::Gauge => "gauge",
        }
    }
}

/// Where the edge reads a meter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeterValue {
    /// The route's cost.
    Cost,
    /// Body bytes from the client.
    RequestBytes,
    /// Body bytes to the client.
    ResponseBytes,
    /// The end user, by the header the app names.
    EndUser,
    /// The client's address.
    ClientIp,
    /// A header of the request, lower case.
    RequestHeader(Box<str>),
    /// A header of the upstream's answer, lower case.
    ResponseHeader(Box<str>),
    /// Nowhere: CloudEvents only.
    Event,
}

/// A meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Its id: the `meter` of rows and the `type` of CloudEvents.
    pub id: Box<str>,
    /// Its name for people.
    pub title: Box<str>,
    /// What one of it is, for people; empty where nothing says.
    pub unit: Box<str>,
    /// How it adds up.
    pub aggregate: Aggregate,
    /// What the edge reads.
    pub value: MeterValue,
    /// The member of a CloudEvent's `data` that holds the value.
    pub field: Box<str>,
}

impl Meter {
    /// A meter nobody defined: the sum of what routes cost and events say.
    pub(crate) fn plain(id: &str) -> Meter {
        Meter {
            id: id.into(),
            title: id.into(),
            unit: "".into(),
            aggregate: Aggregate::Sum,
            value: MeterValue::Cost,
            field: default_field(Aggregate::Sum).into(),
        }
    }

    /// Whether it is read from the bytes of every row and has none of its own.
    pub fn is_of_columns(&self) -> bool {
        matches!(&*self.id, DATA_IN | DATA_OUT)
    }
}

/// The member of `data` that is read where a table names none.
pub(crate) fn default_field(aggregate: Aggregate) -> &'static str {
    if aggregate == Aggregate::Distinct { "member" } else { "quantity" }
}

/// The meters of the plan, and data volume.
pub(crate) fn built_in() -> Vec<Meter> {
    let processing = MeterValue::ResponseHeader("x-orbit-processing-ms".into());
    [
        (DEFAULT_METER, "API calls", "calls", Aggregate::Sum, MeterValue::Cost),
        ("active_users", "Active users", "users", Aggregate::Distinct, MeterValue::EndUser),
        (
            "active_integrations",
            "Active integrations",
            "integrations",
            Aggregate::Distinct,
            MeterValue::Event,
        ),
        ("automations", "Automations executed", "runs", Aggregate::Sum, MeterValue::Cost),
        ("processing", "Processing", "ms", Aggregate::Sum, processing),
        (STORAGE, "Storage", "bytes", Aggregate::Gauge, MeterValue::Event),
        (DATA_IN, "Data in", "bytes", Aggregate::Sum, MeterValue::RequestBytes),
        (DATA_OUT, "Data out", "bytes", Aggregate::Sum, MeterValue::ResponseBytes),
    ]
    .into_iter()
    .map(|(id, title, unit, aggregate, value)| Meter {
        id: id.into(),
        title: title.into(),
        unit: unit.into(),
        aggregate,
        value,
        field: default_field(aggregate).into(),
    })
    .collect()
}
