// The few functions of TVM's runtime that compiled loops call: scratch memory, threads, errors.
#pragma once

#include <tvm/ffi/c_api.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

struct GroupEnv {  // TVMParallelGroupEnv of tvm/runtime/c_backend_api.h
  void* sync_handle;
  int32_t num_task;
};
using Task = int (*)(int, GroupEnv*, void*);

// Threads that share the tasks of one loop. There are more tasks than threads, and whoever is done takes the next
// one, because a phone's cores are not equally fast.
class Threads {
 public:
  void start(int count) {
    for (int i = 1; i < count; ++i) std::thread([this] { serve(); }).detach();
    count_ = count;
  }

  int run(Task task, void* data) {
    if (count_ == 1) {
      GroupEnv alone{nullptr, 1};
      return task(0, &alone, data);
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = task, data_ = data, env_ = {nullptr, 4 * count_};
      next_ = 0, failed_ = 0, busy_ = count_ - 1, ++round_;
    }
    wake_.notify_all();
    work();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    return failed_;
  }

 private:
  void work() {
    for (int mine; (mine = next_++) < env_.num_task;)
      if (task_(mine, &env_, data_) != 0) failed_ = -1;
  }

  void serve() {
    for (int seen = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
      }
      work();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> next_{0}, failed_{0};
  int count_ = 1, busy_ = 0, round_ = 0;
  Task task_ = nullptr;
  void* data_ = nullptr;
  GroupEnv env_{nullptr, 1};
};

inline Threads& threads() {
  static Threads* all = new Threads;  // never destroyed: its threads wait in it until the program ends
  return *all;
}

// Scratch memory is asked for anew at every run, so each thread keeps what it has had.
struct Scratch {
  void* memory;
  uint64_t size;
  bool used;
};
inline thread_local std::vector<Scratch> scratch;

extern "C" {
void* TVMBackendAllocWorkspace(int, int, uint64_t size, int, int) {
  for (Scratch& one : scratch)
    if (!one.used && one.size >= size) return one.used = true, one.memory;
  scratch.push_back({std::aligned_alloc(64, (size + 63) / 64 * 64), size, true});
  return scratch.back().memory;
}

int TVMBackendFreeWorkspace(int, int, void* memory) {
  for (Scratch& one : scratch)
    if (one.memory == memory) one.used = false;
  return 0;
}

int TVMBackendParallelLaunch(Task task, void* data, int) { return threads().run(task, data); }

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  std::fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; ++i)
    if (parts[i]) std::fputs(parts[i], stderr);
  std::fputc('\n', stderr);
}

// Compiled loops reach the runtime through these variables.
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = TVMBackendAllocWorkspace;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = TVMBackendFreeWorkspace;
int (*__TVMBackendParallelLaunch)(Task, void*, int) = TVMBackendParallelLaunch;
}
