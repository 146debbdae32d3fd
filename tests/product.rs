//! Claims about the whole product: the real binary, driven from outside. One program, so that it is
//! linked once; the modules are:
//!
//! - [`files`]: what happens to files, every line arrives once;
//! - [`lines`]: what stands in files, long, half and odd lines;
//! - [`stops`]: SIGTERM and kill -9 at any moment;
//! - [`crash`]: kills, power, failing disks;
//! - [`http`]: what is pushed by HTTP;
//! - [`abuse`]: hostile, broken and slow clients;
//! - [`clients`]: clients that others wrote;
//! - [`gateway`]: TLS, auth, proxies and whatever else is before Loki;
//! - [`guard`]: who may come in: TLS, certificates, tokens, roles, the audit log;
//! - [`sink`]: what Loki answers, or does not;
//! - [`several`]: several sinks and tenants;
//! - [`answers`]: every answer in depth: tenants, bad lines, limits, clocks, dead letters;
//! - [`dlq`]: the commands for what Loki refused for good;
//! - [`tools`]: the commands for what a data_dir holds;
//! - [`preflight`]: whether a deployment would go well;
//! - [`top`]: the dashboard, in a terminal;
//! - [`verify`]: baselines, and go or no-go of a rollout;
//! - [`golden`]: what other versions left on the disk;
//! - [`observe`]: what it shows of itself;
//! - [`own_log`]: what it says of itself;
//! - [`api`]: what operators ask, and its document;
//! - [`playbook`]: the commands of the playbook, as they stand;
//! - [`reload`]: another configuration while it runs;
//! - [`setup`]: the command line, the configuration, the endpoints, systemd;
//! - [`corpora`]: what a fuzzer made of bodies and directories, taken in by the library;
//! - [`loki`]: the same against a real Loki, where LOKI_URL names one; [`refusals`]: what becomes of what it
//!   refuses.

mod bed;

mod abuse;
mod answers;
mod api;
mod clients;
mod corpora;
mod crash;
mod dlq;
mod files;
mod gateway;
mod golden;
mod guard;
mod http;
mod lines;
mod loki;
mod observe;
mod own_log;
mod playbook;
mod preflight;
mod refusals;
mod reload;
mod setup;
mod several;
mod sink;
mod stops;
mod tools;
mod top;
mod verify;
