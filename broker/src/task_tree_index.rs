//! An index of tasks by their own names and by the names of the tasks that they were delegated
//! from.

use std::collections::{HashMap, HashSet};

use sundew_core::TaskId;

/// A map from tasks to values. A value is found by its task, and by every task that this task was
/// delegated from.
pub(crate) struct TaskTreeIndex<T> {
    known: HashMap<TaskId, Member<T>>,
    /// The known tasks that were delegated, directly or over others, from each task.
    below: HashMap<TaskId, HashSet<TaskId>>,
}

struct Member<T> {
    ancestors: Box<[TaskId]>,
    value: T,
}

impl<T> Default for TaskTreeIndex<T> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            below: HashMap::new(),
        }
    }
}

impl<T> TaskTreeIndex<T> {
    /// Returns the value of a task that was delegated from `ancestors`, and inserts `value` first
    /// if there is none.
    pub(crate) fn or_insert_with(
        &mut self,
        task: TaskId,
        ancestors: &[TaskId],
        value: impl FnOnce() -> T,
    ) -> &mut T {
        let below = &mut self.below;
        let member = self.known.entry(task).or_insert_with(|| {
            for ancestor in ancestors {
                below.entry(*ancestor).or_default().insert(task);
            }
            Member {
                ancestors: ancestors.into(),
                value: value(),
            }
        });
        &mut member.value
    }

    /// Returns the value of a task, if the task is known.
    pub(crate) fn get(&self, task: &TaskId) -> Option<&T> {
        self.known.get(task).map(|member| &member.value)
    }

    /// Returns the value of a task for a change, if the task is known.
    pub(crate) fn get_mut(&mut self, task: &TaskId) -> Option<&mut T> {
        self.known.get_mut(task).map(|member| &mut member.value)
    }

    /// Removes a task and its value. The tasks that were delegated from it stay.
    pub(crate) fn remove(&mut self, task: &TaskId) {
        let Some(member) = self.known.remove(task) else {
            return;
        };
        for ancestor in &member.ancestors {
            if let Some(below) = self.below.get_mut(ancestor) {
                below.remove(task);
                if below.is_empty() {
                    self.below.remove(ancestor);
                }
            }
        }
    }

    /// Returns all tasks and their values, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TaskId, &T)> {
        self.known
            .iter()
            .map(|(task, member)| (task, &member.value))
    }

    /// Returns all tasks and their values, to be changed, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&TaskId, &mut T)> {
        self.known
            .iter_mut()
            .map(|(task, member)| (task, &mut member.value))
    }

    /// Returns the names of all tasks, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &TaskId> {
        self.known.keys()
    }

    /// Returns what ends when a task ends, as far as it is known: the task itself, and every task
    /// that was delegated from it.
    pub(crate) fn ending_with(&self, task: &TaskId) -> impl Iterator<Item = (&TaskId, &T)> {
        let itself = self.known.get_key_value(task);
        let below = self
            .below
            .get(task)
            .into_iter()
            .flatten()
            .filter_map(|id| self.known.get_key_value(id));
        itself
            .into_iter()
            .chain(below)
            .map(|(task, member)| (task, &member.value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{TaskId, TaskTreeIndex};

    #[test]
    fn an_ending_concerns_the_task_and_what_is_below_it_for_as_long_as_they_are_known() {
        let id = |n| TaskId::from_bytes([n; 16]);
        let mut index = TaskTreeIndex::default();
        index.or_insert_with(id(1), &[], || 1);
        index.or_insert_with(id(2), &[id(1)], || 2);
        index.or_insert_with(id(3), &[id(1), id(2)], || 3);
        // Its ancestors are attended elsewhere.
        index.or_insert_with(id(5), &[id(4)], || 5);
        *index.or_insert_with(id(5), &[id(4)], || 0) += 1;
        let concerned = |index: &TaskTreeIndex<i32>, n| {
            index
                .ending_with(&id(n))
                .map(|(_, value)| *value)
                .collect::<HashSet<_>>()
        };
        assert_eq!(
            [1, 2, 3, 4, 6].map(|n| concerned(&index, n)),
            [vec![1, 2, 3], vec![2, 3], vec![3], vec![6], vec![]].map(HashSet::from_iter)
        );
        index.remove(&id(2));
        assert_eq!(
            (concerned(&index, 1), concerned(&index, 2)),
            (HashSet::from([1, 3]), HashSet::from([3]))
        );
        index.remove(&id(3));
        index.remove(&id(5));
        assert!(index.below.is_empty() && concerned(&index, 4).is_empty());
    }
}
