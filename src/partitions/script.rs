//! A script: the commands that a call will run, in order, on the coordinator and on nodes.

use crate::error::Result;
use crate::node::channel::Channel;
use crate::pg::sql;
use shardkeeper_core::plan::LOCAL;

#[derive(Debug, Default)]
pub struct Script {
    pub steps: Vec<Step>,
}

/// Commands for one server that belong together.
#[derive(Debug)]
pub struct Step {
    /// `local` or the name of a node.
    pub node: String,
    pub commands: Vec<String>,
    /// Undoes all commands of the step on its node; empty on the coordinator, whose own transaction undoes.
    pub inverse: String,
}

impl Script {
    pub fn local(&mut self, commands: Vec<String>) {
        self.push(LOCAL, commands, String::new());
    }

    pub fn on_node(&mut self, node: &str, commands: Vec<String>, inverse: String) {
        self.push(node, commands, inverse);
    }

    fn push(&mut self, node: &str, commands: Vec<String>, inverse: String) {
        if !commands.is_empty() {
            self.steps.push(Step { node: node.to_string(), commands, inverse });
        }
    }

    /// Runs everything in the caller's transaction.
    pub fn run(&self) -> Result<()> {
        for step in &self.steps {
            let text = step.commands.join(";\n");
            if step.node == LOCAL {
                sql::run_quietly(&text)?;
            } else {
                Channel::open(&step.node)?.run(&text, &step.inverse)?;
            }
        }
        Ok(())
    }

    /// One row per command: number, node, command.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().flat_map(|step| step.commands.iter().map(|command| (step.node.as_str(), command.as_str())))
    }
}
