// The one thread pool. No OpenMP: two runtimes in one process (torch brings its own) hang after a fork.
#pragma once
#include <cstdint>
#include <functional>

namespace genrec {

// Calls body(task) for every task in [0, num_tasks), on at most num_threads threads, the caller among them.
// Tasks are handed out in order; which thread runs which is not defined, so bodies write to their own outputs.
// The exception of the lowest failing task is rethrown after all have ended. Runs inline with one thread, or when
// called from inside a task. A fork-join costs about 6 us: give it at least 100 us of work.
void parallel_for(std::int64_t num_tasks, int num_threads, const std::function<void(std::int64_t)>& body);

}  // namespace genrec
