#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace genrec {
namespace {

thread_local bool inside_task = false;

// One fork-join in flight: tasks are drawn under the pool's mutex (tasks are coarse, so it is uncontended).
struct Job {
  const std::function<void(std::int64_t)>* body;
  std::int64_t num_tasks;
  std::int64_t next = 0;
  int running = 0;
  int seats = 0;  // workers that may still join
  std::int64_t failed_task = -1;
  std::exception_ptr failure = nullptr;
};

class Pool {
 public:
  explicit Pool(int process) : owner(process) {}

  const int owner;  // the process whose threads these are

  void run(Job& job) {
    std::lock_guard<std::mutex> one_at_a_time(entry_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      try {
        for (; num_workers_ < job.seats; ++num_workers_) std::thread([this] { work(); }).detach();
      } catch (const std::system_error&) {
        // The system grants no more threads: those at hand, the caller at least, do all the work.
      }
      job_ = &job;
    }
    wake_.notify_all();
    std::unique_lock<std::mutex> lock(mutex_);
    draw_tasks(job, lock);
    job_ = nullptr;  // no worker may join from here on
    done_.wait(lock, [&] { return job.running == 0; });
  }

 private:
  // Runs tasks until none is left. Holds the lock on entry and on return, not while a task runs.
  void draw_tasks(Job& job, std::unique_lock<std::mutex>& lock) {
    ++job.running;
    inside_task = true;
    while (job.next < job.num_tasks) {
      const std::int64_t task = job.next++;
      lock.unlock();
      std::exception_ptr failure;
      try {
        (*job.body)(task);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (failure && (job.failed_task < 0 || task < job.failed_task)) {
        job.failed_task = task;
        job.failure = failure;
      }
    }
    inside_task = false;
    if (--job.running == 0) done_.notify_all();
  }

  void work() {  // until the process ends: the pool is never destroyed
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ && job_->seats > 0 && job_->next < job_->num_tasks; });
      --job_->seats;
      draw_tasks(*job_, lock);
    }
  }

  std::mutex entry_, mutex_;
  std::condition_variable wake_, done_;
  int num_workers_ = 0;
  Job* job_ = nullptr;
};

int process_id() {
#if defined(_WIN32)
  return 0;  // no fork there
#else
  return static_cast<int>(getpid());
#endif
}

// A forked child inherits the pool's memory but none of its threads: it gets a fresh pool and leaves the old one
// untouched (joining threads that do not exist would hang). No lock here: a fork while another thread held it would
// leave it locked in the child for ever.
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  const int self = process_id();
  Pool* found = current.load();
  if (found && found->owner == self) return *found;
  Pool* fresh = new Pool(self);
  if (current.compare_exchange_strong(found, fresh)) return *fresh;
  delete fresh;  // another thread of this process was first; this one has no workers yet
  return *found;
}

}  // namespace

void parallel_for(std::int64_t num_tasks, int num_threads, const std::function<void(std::int64_t)>& body) {
  const auto threads = static_cast<int>(std::min<std::int64_t>(num_threads, num_tasks));
  if (threads <= 1 || inside_task) {
    for (std::int64_t task = 0; task < num_tasks; ++task) body(task);
    return;
  }
  Job job{&body, num_tasks};
  job.seats = threads - 1;
  pool().run(job);
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace genrec
