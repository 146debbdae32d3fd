//! What is kept by tenant: its rate, its streams, and how they travelled.

use super::limits::Bucket;
use super::stats::Travels;
use std::collections::{BTreeMap, HashMap};

/// Loki has no such bound; the stub's memory has.
const TENANTS_MAX: usize = 16_384;
/// Streams that exist, of all tenants.
const STREAMS_MAX: usize = 1 << 20;
/// Streams of all tenants, those that were refused too, of which it is known how they travelled.
const KNOWN_MAX: usize = 1 << 17;

#[derive(Default)]
pub struct Tenants {
    by_name: HashMap<String, Tenant>,
    known: usize,
    pub streams: Vec<StreamState>,
}

#[derive(Default)]
pub struct Tenant {
    pub bucket: Bucket,
    /// Streams that exist, by their labels.
    streams: HashMap<String, usize>,
    travels: HashMap<String, Travels>,
}

pub struct StreamState {
    pub tenant: String,
    pub labels: String,
    pub bucket: Bucket,
    pub newest_ns: i64,
    /// The newest first delivery.
    pub last_first_ns: i64,
    /// Per writer, timestamp and sequence number of its newest first delivery.
    pub heads: HashMap<u32, (i64, u64)>,
}

impl Tenants {
    /// None where there is no room for one more.
    pub fn get(&mut self, name: &str) -> Option<&mut Tenant> {
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= TENANTS_MAX {
                return None;
            }
            self.by_name.insert(name.to_owned(), Tenant::default());
        }
        self.by_name.get_mut(name)
    }

    /// A stream that exists, or is created if its tenant has fewer than so many.
    pub fn stream(&mut self, tenant: &str, labels: &str, max: usize, alone: bool) -> Option<usize> {
        let at = self.streams.len();
        let of = self.get(tenant)?;
        if let Some(at) = of.streams.get(labels) {
            return Some(*at);
        }
        if of.streams.len() >= max || at >= STREAMS_MAX {
            return None;
        }
        of.streams.insert(labels.to_owned(), at);
        if let Some(travels) = of.travels.get_mut(labels) {
            travels.created_alone = Some(alone);
        }
        self.streams.push(StreamState {
            tenant: tenant.to_owned(),
            labels: labels.to_owned(),
            bucket: Bucket::default(),
            newest_ns: i64::MIN,
            last_first_ns: i64::MIN,
            heads: HashMap::new(),
        });
        Some(at)
    }

    /// A stream travelled in a push, with others or without.
    pub fn travelled(&mut self, tenant: &str, labels: &str, alone: bool) {
        let full = self.known >= KNOWN_MAX;
        let Some(of) = self.get(tenant) else { return };
        if let Some(travels) = of.travels.get_mut(labels) {
            travels.note(alone);
        } else if !full {
            of.travels.entry(labels.to_owned()).or_default().note(alone);
            self.known += 1;
        }
    }

    pub fn travels(&self, tenant: &str, labels: &str) -> Option<Travels> {
        self.by_name.get(tenant)?.travels.get(labels).copied()
    }

    pub fn all_travels(&self) -> BTreeMap<(String, String), Travels> {
        let of = |(tenant, of): (&String, &Tenant)| {
            let tenant = tenant.clone();
            let one = move |(labels, travels): (&String, &Travels)| {
                ((tenant.clone(), labels.clone()), *travels)
            };
            of.travels.iter().map(one).collect::<Vec<_>>()
        };
        self.by_name.iter().flat_map(of).collect()
    }
}
