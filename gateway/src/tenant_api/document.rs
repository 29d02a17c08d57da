//! The document that describes the tenants' API (OpenAPI 3.1). It is what clients are written
//! against; a test here holds it to the code, and `make openapi` holds it to a running gateway.

/// The text, as served.
pub const TEXT: &str = include_str!("../../openapi/tenant.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Serialize;
    use serde_json::{Value, json};

    use super::super::limits::{AppFacts, Limit, Limits, PlanFacts};
    use super::super::quotas::Quota;
    use super::super::{BASE, ENDPOINTS, brake, desk, refusals, span, usage};
    use super::TEXT;

    fn document() -> Value {
        serde_json::from_str(TEXT).expect("JSON")
    }

    /// Follows `$ref`.
    fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str() {
            Some(path) => document.pointer(&path[1..]).unwrap_or_else(|| panic!("{path}")),
            None => value,
        }
    }

    fn names(value: &Value) -> BTreeSet<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    fn texts(value: &Value) -> BTreeSet<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().into()).collect()
    }

    /// Every `$ref` leads somewhere.
    fn check_references(document: &Value, value: &Value) {
        resolve(document, value);
        match value {
            Value::Object(members) => {
                members.values().for_each(|member| check_references(document, member));
            }
            Value::Array(items) => items.iter().for_each(|item| check_references(document, item)),
            _ => {}
        }
    }

    #[test]
    fn it_has_the_paths_and_parameters_of_the_code_and_no_others() {
        let document = document();
        check_references(&document, &document);
        assert_eq!(document["openapi"], "3.1.0");
        let paths = ENDPOINTS.map(|endpoint| format!("{BASE}{}", endpoint.path()));
        assert_eq!(names(&document["paths"]), BTreeSet::from(paths));
        for endpoint in ENDPOINTS {
            let path = &document["paths"][format!("{BASE}{}", endpoint.path())];
            assert_eq!(names(path), BTreeSet::from(["get".to_owned()]));
            let listed = path["get"]["parameters"].as_array().cloned().unwrap_or_default();
            let described: Vec<&str> = listed
                .iter()
                .map(|parameter| resolve(&document, parameter)["name"].as_str().unwrap())
                .collect();
            assert_eq!(described, endpoint.parameters(), "{endpoint:?}");
        }
    }

    #[test]
    fn its_parameters_have_the_words_and_bounds_of_the_code() {
        let document = document();
        let schema = |name: &str| document["components"]["parameters"][name]["schema"].clone();
        for (name, words) in [
            ("usagePer", usage::PER.map(|(word, per)| (word, per.as_str()))),
            ("refusalsPer", refusals::PER.map(|(word, per)| (word, per.as_str()))),
            ("by", usage::BY),
        ] {
            assert_eq!(schema(name)["default"], words[0].0, "{name}");
            let all = words.map(|(word, meant)| {
                assert_eq!(word, meant);
                word.to_owned()
            });
            assert_eq!(texts(&schema(name)["enum"]), BTreeSet::from(all), "{name}");
        }
        let limit = schema("limit");
        assert_eq!((limit["default"].clone(), limit["maximum"].clone()), {
            let (default, most) = usage::PAGE;
            (json!(default), json!(most))
        });
        for list in ["Usage", "Refusals"] {
            let rows = &document["components"]["schemas"][list]["properties"]["rows"];
            assert_eq!(rows["maxItems"], usage::PAGE.1);
        }
        let from = document["components"]["parameters"]["from"]["description"].to_string();
        assert!(from.contains(&format!("At most {} days", span::MAX_DAYS)));
        // "Ten times a second, twenty times at once".
        assert_eq!((brake::TERMS.interval_ns, brake::TERMS.burst), (100_000_000, 20));
        assert!(desk::TIMEOUT.as_secs() > 0);
    }

    /// The members of a full answer are those of its schema; one with nothing optional has those
    /// that are required.
    fn check_schema(name: &str, full: &impl Serialize, least: &impl Serialize) {
        let document = document();
        let schema = &document["components"]["schemas"][name];
        let members = |answer: &dyn Fn() -> Value| names(&answer());
        let full = members(&|| serde_json::to_value(full).expect("JSON"));
        let least = members(&|| serde_json::to_value(least).expect("JSON"));
        assert_eq!(names(&schema["properties"]), full, "{name}");
        assert_eq!(texts(&schema["required"]), least, "{name}");
    }

    #[test]
    fn its_schemas_are_those_of_the_answers() {
        let text = || Some(String::new());
        check_schema("Usage", &usage::Usage::default(), &usage::Usage::default());
        let (peak, level) = (text(), text());
        let parts = usage::Row { tenant: text(), app: text(), route: text(), ..Default::default() };
        let row = usage::Row { peak, level, ..parts };
        check_schema("UsageRow", &row, &usage::Row::default());
        check_schema("Refusals", &refusals::Refusals::default(), &refusals::Refusals::default());
        check_schema("RefusalRow", &refusals::Row::default(), &refusals::Row::default());
        check_schema("Limits", &Limits::default(), &Limits::default());
        check_schema("Plan", &PlanFacts::default(), &PlanFacts::default());
        check_schema("App", &AppFacts::default(), &AppFacts::default());
        let limit = Limit {
            tenant: text(),
            per_second: Some(1.0),
            burst: Some(1),
            max: Some(1),
            remaining: Some(1),
            ..Limit::default()
        };
        check_schema("Limit", &limit, &Limit::default());
        let quota = Quota {
            tenant: text(),
            period: Some("day"),
            zone: text(),
            from: text(),
            to: text(),
            used: Some(1),
            thresholds: Some(vec![80]),
            ..Quota::default()
        };
        check_schema("Quota", &quota, &Quota::default());
    }

    #[test]
    fn every_error_has_its_answer_and_its_example() {
        let document = document();
        for endpoint in ENDPOINTS {
            let path = format!("{BASE}{}", endpoint.path());
            let responses = &document["paths"][&path]["get"]["responses"];
            for (status, response) in responses.as_object().expect("responses") {
                let response = resolve(&document, response);
                assert!(response["headers"]["X-Request-Id"].is_object(), "{path} {status}");
                if status == "200" {
                    continue;
                }
                let example = &response["content"]["application/problem+json"]["example"];
                assert_eq!(example["status"].to_string(), *status, "{path}");
                let known = &document["components"]["schemas"]["Problem"];
                assert!(names(&known["properties"]).is_superset(&names(example)));
                assert!(names(example).is_superset(&texts(&known["required"])));
            }
        }
    }
}
