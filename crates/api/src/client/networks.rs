//! Operations on networks.

use super::Client;
use super::error::Error;
use super::request::Filters;
use crate::network::{
    ConnectNetwork, CreateNetwork, CreateNetworkResponse, DisconnectNetwork, Network, PruneNetworksResponse,
};

impl Client {
    /// Lists networks, without their members.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<Network>, Error> {
        self.get("/networks").filters(filters).fetch().await
    }

    /// Everything about one network.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn inspect_network(&self, name: &str) -> Result<Network, Error> {
        self.get(&format!("/networks/{name}")).fetch().await
    }

    /// Makes a network.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn create_network(&self, network: &CreateNetwork) -> Result<CreateNetworkResponse, Error> {
        self.post("/networks/create").json(network).fetch().await
    }

    /// Removes a network that nobody is on.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.delete(&format!("/networks/{name}")).send().await.map(drop)
    }

    /// Puts a container on a network.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn connect_network(&self, name: &str, connect: &ConnectNetwork) -> Result<(), Error> {
        self.post(&format!("/networks/{name}/connect")).json(connect).send().await.map(drop)
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn disconnect_network(&self, name: &str, disconnect: &DisconnectNetwork) -> Result<(), Error> {
        self.post(&format!("/networks/{name}/disconnect")).json(disconnect).send().await.map(drop)
    }

    /// Removes networks that no container has.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn prune_networks(&self, filters: &Filters) -> Result<PruneNetworksResponse, Error> {
        self.post("/networks/prune").filters(filters).fetch().await
    }
}
