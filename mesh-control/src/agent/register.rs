//! Registering, deregistering, maintenance and heartbeats: on disk first, then in memory.
//!
//! All of it runs where blocking is allowed and one change at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::disk::{Disk, Folder, Saved, SavedCheck, SavedService, SavedWhat};
use super::local::{Check, Local, Service};
use super::service::{checks_of, health_of, instance, instance_id, single_check};
use super::{AgentError, Scripts, Shared, Source, Terms};
use crate::check::{AliasSource, Aliased, CheckResult, Kind, Running, SavedTtl, Ttl};
use crate::clock;
use crate::definition::{SIDECAR_SUFFIX, free_port, sidecar};
use crate::types::{
    CheckDefinition, CheckStatus, HealthCheck, NodeService, ServiceDefinition, Token,
};

/// The node's maintenance.
const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Before the ID of a service: its maintenance.
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// A service that is ready to be taken in.
struct Ready {
    instance: NodeService,
    checks: Vec<CheckDefinition>,
    token: Token,
    sidecar_of: Option<String>,
}

impl Ready {
    fn new(definition: &ServiceDefinition, token: &Token) -> Result<Self, AgentError> {
        let own = &definition.token;
        let token = if own.is_empty() { token.clone() } else { own.clone() };
        let (instance, checks) = (instance(definition)?, checks_of(definition)?);
        Ok(Self { instance, checks, token, sidecar_of: None })
    }
}

impl Shared {
    /// Takes in what the data directory has.
    pub(super) fn restore(
        self: &Arc<Self>,
        disk: &mut Disk,
        saved: Saved,
    ) -> Result<(), AgentError> {
        let Saved { services, checks, mut states } = saved;
        let ids: BTreeSet<_> = services.iter().map(|saved| saved.service.id.clone()).collect();
        for saved in services {
            // Its service was registered anew without it, and this file stayed.
            if saved.sidecar_of.as_ref().is_some_and(|parent| !ids.contains(parent)) {
                disk.remove(Folder::Services, &saved.service.id)?;
                continue;
            }
            let mut local = self.local.lock();
            let mut service = Service::new(saved.service, Source::Api, saved.token.clone());
            service.sidecar_of = saved.sidecar_of;
            local.put_service(service);
            for definition in saved.checks {
                let state = states.remove(&definition.id);
                self.install(&mut local, definition, Source::Api, &saved.token, false, state)?;
            }
        }
        for SavedCheck { what, token } in checks {
            let mut local = self.local.lock();
            match what {
                SavedWhat::Check(definition) => {
                    let service = &definition.service_id;
                    if !service.is_empty() && !ids.contains(service) {
                        tracing::warn!(
                            check = definition.id,
                            service,
                            "its service is not here any more: the check is forgotten"
                        );
                        disk.remove(Folder::Checks, &definition.id)?;
                        continue;
                    }
                    let state = states.remove(&definition.id);
                    self.install(&mut local, *definition, Source::Api, &token, true, state)?;
                }
                SavedWhat::Maintenance { service_id, reason } => {
                    maintain(&mut local, &service_id, &reason, token);
                }
            }
        }
        for id in states.into_keys() {
            disk.remove(Folder::States, &id)?;
        }
        self.changed();
        Ok(())
    }

    pub(super) fn register_service(
        self: &Arc<Self>,
        disk: &mut Disk,
        definition: &ServiceDefinition,
        terms: &Terms,
    ) -> Result<(), AgentError> {
        let ready = Ready::new(definition, &terms.token)?;
        let id = ready.instance.id.clone();
        let sidecar_id = sidecar_id(&id);
        let (sidecar, had_sidecar) = {
            let local = self.local.lock();
            let others =
                || local.services().iter().filter(|(id, _)| **id != sidecar_id).map(|(_, it)| it);
            let is_taken = |port| others().any(|service| service.instance.port == port);
            let had = local.services().get(&sidecar_id);
            let port = had.map(|service| service.instance.port);
            let ports = self.config.sidecar_ports.clone();
            let sidecar = sidecar(definition, |_| free_port(ports, port, is_taken))?;
            (sidecar, had.is_some_and(|had| had.sidecar_of.as_deref() == Some(id.as_str())))
        };
        let sidecar = match sidecar {
            None => None,
            Some(sidecar) => {
                let mut sidecar = Ready::new(&sidecar, &ready.token)?;
                sidecar.sidecar_of = Some(id);
                Some(sidecar)
            }
        };
        for ready in sidecar.iter().chain([&ready]) {
            self.allow_scripts(&ready.checks, terms.source)?;
        }
        match sidecar {
            Some(sidecar) => self.take_in(disk, sidecar, terms)?,
            None if had_sidecar => {
                self.deregister_service(disk, &sidecar_id)?;
            }
            None => {}
        }
        self.take_in(disk, ready, terms)
    }

    fn allow_scripts(&self, checks: &[CheckDefinition], source: Source) -> Result<(), AgentError> {
        if checks.iter().all(|check| check.args.is_empty()) {
            return Ok(());
        }
        match (self.config.scripts, source) {
            (Scripts::All, _) | (Scripts::Local, Source::File) => Ok(()),
            (_, Source::Api) => Err(AgentError::RemoteScripts),
            (Scripts::Off, Source::File) => Err(AgentError::Scripts),
        }
    }

    fn take_in(
        self: &Arc<Self>,
        disk: &mut Disk,
        ready: Ready,
        terms: &Terms,
    ) -> Result<(), AgentError> {
        let Ready { instance, checks, token, sidecar_of } = ready;
        let id = instance.id.clone();
        // What the service had and what is not among the new ones.
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for (old, check) in self.local.lock().checks_of(&id) {
            let is_maintenance = check.definition.is_none();
            if is_maintenance || checks.iter().any(|new| new.id == *old) {
                continue;
            }
            // A file says all that it has.
            let from_file = terms.source == Source::File && !check.is_alone;
            if terms.replace_existing_checks || from_file {
                go.push((old.clone(), check.is_alone));
            } else if !check.is_alone {
                stay.extend(check.definition.clone());
            }
        }
        match terms.source {
            Source::Api => {
                let saved = SavedService {
                    service: instance.clone(),
                    checks: checks.iter().chain(&stay).cloned().collect(),
                    sidecar_of: sidecar_of.clone(),
                    token: token.clone(),
                };
                disk.put(Folder::Services, &id, saved)?;
            }
            Source::File => disk.remove(Folder::Services, &id)?,
        }
        for (check, is_alone) in &go {
            disk.remove(Folder::States, check)?;
            if *is_alone {
                disk.remove(Folder::Checks, check)?;
            }
        }

        let mut local = self.local.lock();
        for (check, _) in &go {
            local.remove_check(check);
        }
        let mut service = Service::new(instance, terms.source, token.clone());
        service.sidecar_of = sidecar_of;
        local.put_service(service);
        for check in checks {
            self.install(&mut local, check, terms.source, &token, false, None)?;
        }
        drop(local);
        self.changed();
        Ok(())
    }

    /// Takes in a check and begins to run it.
    fn install(
        self: &Arc<Self>,
        local: &mut Local,
        definition: CheckDefinition,
        source: Source,
        token: &Token,
        is_alone: bool,
        state: Option<SavedTtl>,
    ) -> Result<(), AgentError> {
        let kind = definition.kind()?;
        let service = local.services().get(&definition.service_id).map(|it| &it.instance);
        let health = health_of(&definition, kind, &local.node().name, service);
        let mut check = Check::new(health, source, token.clone());
        let (id, now) = (definition.id.clone(), Instant::now());
        check.is_alone = is_alone;
        if kind == Kind::Ttl {
            let ttl = definition.ttl.0;
            check.ttl = Some(Ttl::new(ttl, now));
            if let Some(state) = state
                && let Some(remaining) = state.remaining(clock::wall(), ttl)
            {
                check.ttl = Some(Ttl::resumed(ttl, remaining, now));
                (check.health.status, check.health.output) = (state.status, state.output);
            }
        }
        let run = definition.clone();
        check.definition = Some(definition);
        let generation = local.put_check(check, now);
        let running = match kind {
            Kind::Ttl => self.watch_ttl(&id, generation),
            _ => {
                let (shared, id) = (Arc::downgrade(self), id.clone());
                self.runner.start(&run, move |result| {
                    if let Some(shared) = shared.upgrade() {
                        shared.record(&id, generation, result);
                    }
                })?
            }
        };
        if let Some(check) = local.check_mut(&id) {
            check.running = Some(running);
        }
        Ok(())
    }

    fn record(&self, id: &str, generation: u64, result: CheckResult) {
        let (now, lazily) = (Instant::now(), self.lazily());
        if self.local.lock().record(id, generation, result, now, lazily) {
            self.changed();
        }
    }

    /// How long an output may wait: half of the interval and a random part of it, as in Consul.
    fn lazily(&self) -> std::time::Duration {
        let interval = self.config.check_update_interval;
        interval / 2 + interval.mul_f64(fastrand::f64())
    }

    /// Waits for the check to expire. It ends when it has: the next heartbeat starts it again.
    fn watch_ttl(self: &Arc<Self>, id: &str, generation: u64) -> Running {
        let (shared, id) = (Arc::downgrade(self), id.to_owned());
        Running::spawn(async move {
            loop {
                let Some(shared) = shared.upgrade() else { return };
                let (next, is_new) = shared.local.lock().expire(&id, generation, Instant::now());
                if is_new {
                    shared.changed();
                }
                drop(shared);
                let Some(next) = next else { return };
                sleep_until(next).await;
            }
        })
    }

    pub(super) fn deregister_service(
        self: &Arc<Self>,
        disk: &mut Disk,
        id: &str,
    ) -> Result<bool, AgentError> {
        let sidecar = sidecar_id(id);
        let (is_here, has_sidecar, checks) = {
            let local = self.local.lock();
            let has_sidecar = local
                .services()
                .get(&sidecar)
                .is_some_and(|service| service.sidecar_of.as_deref() == Some(id));
            let checks: Vec<_> =
                local.checks_of(id).map(|(id, check)| (id.clone(), check.is_alone)).collect();
            (local.services().contains_key(id), has_sidecar, checks)
        };
        if !is_here {
            return Ok(false);
        }
        if has_sidecar {
            self.deregister_service(disk, &sidecar)?;
        }
        disk.remove(Folder::Services, id)?;
        for (check, is_alone) in checks {
            disk.remove(Folder::States, &check)?;
            if is_alone {
                disk.remove(Folder::Checks, &check)?;
            }
        }
        self.local.lock().remove_service(id);
        self.changed();
        Ok(true)
    }

    pub(super) fn register_check(
        self: &Arc<Self>,
        disk: &mut Disk,
        definition: CheckDefinition,
        terms: &Terms,
    ) -> Result<(), AgentError> {
        let definition = single_check(definition)?;
        let checks = [definition];
        self.allow_scripts(&checks, terms.source)?;
        let [mut definition] = checks;
        let service = definition.service_id.clone();
        let (mut is_alone, mut token) = (true, terms.token.clone());
        {
            let local = self.local.lock();
            match local.services().get(&service) {
                Some(service) if token.is_empty() => token = service.token.clone(),
                None if !service.is_empty() => return Err(AgentError::NoServiceOfCheck(service)),
                _ => {}
            }
            // It takes the place of one that came with its service, and stays with it.
            if let Some(old) = local.checks().get(&definition.id) {
                is_alone = old.is_alone || old.health.service_id != service;
            }
        }
        if definition.name.is_empty() {
            definition.name.clone_from(&definition.id);
        }
        match (terms.source, is_alone) {
            (Source::Api, true) => {
                let what = SavedWhat::Check(Box::new(definition.clone()));
                disk.put(
                    Folder::Checks,
                    &definition.id,
                    SavedCheck { what, token: token.clone() },
                )?;
            }
            (Source::Api, false) => self.save_service(disk, &service, |checks| {
                checks.retain(|check| check.id != definition.id);
                checks.push(definition.clone());
            })?,
            (Source::File, _) => disk.remove(Folder::Checks, &definition.id)?,
        }
        let mut local = self.local.lock();
        self.install(&mut local, definition, terms.source, &token, is_alone, None)?;
        drop(local);
        self.changed();
        Ok(())
    }

    /// Keeps a service of the API with its checks after `edit`.
    fn save_service(
        &self,
        disk: &mut Disk,
        id: &str,
        edit: impl FnOnce(&mut Vec<CheckDefinition>),
    ) -> Result<(), AgentError> {
        let saved = {
            let local = self.local.lock();
            let Some(service) = local.services().get(id) else { return Ok(()) };
            if service.source == Source::File {
                return Ok(());
            }
            let checks = local.checks_of(id).filter(|(_, check)| !check.is_alone);
            let mut checks: Vec<_> =
                checks.filter_map(|(_, check)| check.definition.clone()).collect();
            edit(&mut checks);
            SavedService {
                service: service.instance.clone(),
                checks,
                sidecar_of: service.sidecar_of.clone(),
                token: service.token.clone(),
            }
        };
        Ok(disk.put(Folder::Services, id, saved)?)
    }

    pub(super) fn deregister_check(&self, disk: &mut Disk, id: &str) -> Result<bool, AgentError> {
        let found = {
            let local = self.local.lock();
            local.checks().get(id).map(|check| (check.is_alone, check.health.service_id.clone()))
        };
        let Some((is_alone, service)) = found else { return Ok(false) };
        if is_alone {
            disk.remove(Folder::Checks, id)?;
        } else {
            self.save_service(disk, &service, |checks| checks.retain(|check| check.id != id))?;
        }
        disk.remove(Folder::States, id)?;
        self.local.lock().remove_check(id);
        self.changed();
        Ok(true)
    }

    pub(super) fn reload(
        self: &Arc<Self>,
        disk: &mut Disk,
        services: &[ServiceDefinition],
        checks: Vec<CheckDefinition>,
    ) -> Result<(), AgentError> {
        for service in services {
            self.look_at(service).map_err(|error| {
                AgentError::InvalidService(format!("service {:?}: {error}", instance_id(service)))
            })?;
        }
        let ids: BTreeSet<_> = services.iter().map(|it| instance_id(it).to_owned()).collect();
        let mut ready = Vec::new();
        for check in checks {
            let name = check.name.clone();
            let wrong =
                |error: AgentError| AgentError::InvalidService(format!("check {name:?}: {error}"));
            let check = single_check(check).map_err(wrong)?;
            self.allow_scripts(std::slice::from_ref(&check), Source::File).map_err(wrong)?;
            let is_here = self.local.lock().services().contains_key(&check.service_id);
            if !check.service_id.is_empty() && !ids.contains(&check.service_id) && !is_here {
                return Err(wrong(AgentError::NoServiceOfCheck(check.service_id)));
            }
            ready.push(check);
        }

        let (old_services, old_checks): (Vec<_>, Vec<_>) = {
            let local = self.local.lock();
            let is_old = |id: &str| !ids.contains(id);
            let services = local.services().iter();
            let services = services.filter(|(id, service)| {
                let parent = service.sidecar_of.as_deref().unwrap_or(id);
                service.source == Source::File && is_old(parent)
            });
            let checks = local.checks().iter().filter(|(id, check)| {
                check.source == Source::File
                    && check.is_alone
                    && ready.iter().all(|check| check.id != **id)
            });
            (
                services.map(|(id, _)| id.clone()).collect(),
                checks.map(|(id, _)| id.clone()).collect(),
            )
        };
        for id in old_services {
            self.deregister_service(disk, &id)?;
        }
        for id in old_checks {
            self.deregister_check(disk, &id)?;
        }
        for service in services {
            self.register_service(disk, service, &Terms::file())?;
        }
        for check in ready {
            self.register_check(disk, check, &Terms::file())?;
        }
        Ok(())
    }

    /// Whether a service of a file can be registered.
    fn look_at(&self, definition: &ServiceDefinition) -> Result<(), AgentError> {
        let ready = Ready::new(definition, &Token::default())?;
        self.allow_scripts(&ready.checks, Source::File)?;
        if let Some(sidecar) = sidecar(definition, |_| Ok(*self.config.sidecar_ports.start()))? {
            let ready = Ready::new(&sidecar, &Token::default())?;
            self.allow_scripts(&ready.checks, Source::File)?;
        }
        Ok(())
    }

    pub(super) fn update_ttl(
        self: &Arc<Self>,
        disk: &mut Disk,
        id: &str,
        mut result: CheckResult,
    ) -> Result<(), AgentError> {
        let ttl = {
            let mut local = self.local.lock();
            let no_ttl = || AgentError::NoTtl(id.to_owned());
            let check = local.checks().get(id).ok_or_else(no_ttl)?;
            let definition = check.definition.as_ref().ok_or_else(no_ttl)?;
            let (ttl, generation) = (definition.ttl.0, check.generation());
            self.runner.cut(&mut result.output, definition.output_max_size);
            let told = local.told(id, result.clone(), Instant::now(), self.lazily());
            let had_expired = told.ok_or_else(no_ttl)?;
            if had_expired && let Some(check) = local.check_mut(id) {
                check.running = Some(self.watch_ttl(id, generation));
            }
            ttl
        };
        self.changed();
        Ok(disk.put(Folder::States, id, SavedTtl::new(&result, clock::wall(), ttl))?)
    }

    /// `service` is empty for the node.
    pub(super) fn begin_maintenance(
        &self,
        disk: &mut Disk,
        service: &str,
        reason: &str,
        token: Token,
    ) -> Result<(), AgentError> {
        let id = maintenance_id(service);
        {
            let local = self.local.lock();
            if !service.is_empty() && !local.services().contains_key(service) {
                return Err(AgentError::NoService(service.to_owned()));
            }
            if local.checks().contains_key(&id) {
                return Ok(());
            }
        }
        let reason = match reason {
            "" => format!(
                "Maintenance mode is enabled for this {}, but no reason was provided. This is a default message.",
                if service.is_empty() { "node" } else { "service" }
            ),
            reason => reason.to_owned(),
        };
        let what =
            SavedWhat::Maintenance { service_id: service.to_owned(), reason: reason.clone() };
        disk.put(Folder::Checks, &id, SavedCheck { what, token: token.clone() })?;
        maintain(&mut self.local.lock(), service, &reason, token);
        self.changed();
        Ok(())
    }

    pub(super) fn end_maintenance(&self, disk: &mut Disk, service: &str) -> Result<(), AgentError> {
        if !service.is_empty() && !self.local.lock().services().contains_key(service) {
            return Err(AgentError::NoService(service.to_owned()));
        }
        self.deregister_check(disk, &maintenance_id(service)).map(drop)
    }
}

fn sidecar_id(id: &str) -> String {
    format!("{id}{SIDECAR_SUFFIX}")
}

fn maintenance_id(service: &str) -> String {
    match service {
        "" => NODE_MAINTENANCE.to_owned(),
        service => format!("{SERVICE_MAINTENANCE}{service}"),
    }
}

fn maintain(local: &mut Local, service: &str, reason: &str, token: Token) {
    let instance = local.services().get(service).map(|it| it.instance.clone());
    let name = if service.is_empty() { "Node" } else { "Service" };
    let health = HealthCheck {
        node: local.node().name.clone(),
        id: maintenance_id(service),
        name: format!("{name} Maintenance Mode"),
        status: CheckStatus::Critical,
        notes: reason.to_owned(),
        service_id: service.to_owned(),
        service_name: instance.as_ref().map(|it| it.name.clone()).unwrap_or_default(),
        service_tags: instance.map(|it| it.tags).unwrap_or_default(),
        kind: "maintenance".to_owned(),
        ..HealthCheck::default()
    };
    local.put_check(Check::new(health, Source::Api, token), Instant::now());
}

/// What alias checks repeat: the agent's own state, or the catalog's of other nodes.
pub(super) struct Aliases(Weak<Shared>);

impl Aliases {
    pub(super) fn of(shared: &Weak<Shared>) -> Self {
        Self(shared.clone())
    }
}

impl AliasSource for Aliases {
    fn look<'a>(
        &'a self,
        node: &'a str,
        service: &'a str,
        index: u64,
    ) -> BoxFuture<'a, Result<Aliased, String>> {
        Box::pin(async move {
            let stopping = || "the agent is shutting down".to_owned();
            let shared = self.0.upgrade().ok_or_else(stopping)?;
            if node.is_empty() || node.eq_ignore_ascii_case(&shared.config.node.name) {
                let mut changes = shared.changed.subscribe();
                let seen = |shared: &Shared, index| {
                    let local = shared.local.lock();
                    let own = local.checks_of(service).filter(|_| !service.is_empty());
                    let checks = own.chain(local.checks_of(""));
                    let checks = checks.map(|(_, check)| check.health.clone()).collect();
                    let service_exists = local.services().contains_key(service);
                    Aliased { index, checks, service_exists }
                };
                // Held no longer than needed: it would keep the agent from ending.
                drop(shared);
                let index = *changes.wait_for(|now| *now != index).await.map_err(|_| stopping())?;
                return Ok(seen(&*self.0.upgrade().ok_or_else(stopping)?, index));
            }
            let catalog = Arc::clone(&shared.catalog);
            drop(shared);
            let (index, there) =
                catalog.node(node, index).await.map_err(|error| error.to_string())?;
            let there = there.unwrap_or_default();
            let service_exists = there.services.iter().any(|it| it.id == service);
            Ok(Aliased { index, checks: there.checks, service_exists })
        })
    }
}
