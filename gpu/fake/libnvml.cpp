//go:build ignore

// libnvidia-ml.so.1 for tests: it tells what stands in the file that FAKENVML names,
// read anew for every question. A line is a device's UUID, a key and a number:
//   temperature (°C), power (mW), sm, memory (MHz), used (bytes), utilization (%), reasons (bits), error (nvmlReturn_t)
// A device of which no line is there does not exist. A value that is not there is not
// supported. With "error" the device answers nothing but that.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "nvml.h" // of go-nvml, whose handles are in structs

#define API extern "C" __attribute__((visibility("default"))) nvmlReturn_t

struct nvmlDevice_st {
  std::string uuid;
};

namespace {

using Values = std::map<std::string, unsigned long long>;

// read returns what the file says of the device, empty if nothing.
Values read(const std::string &uuid) {
  Values values;
  const char *path = std::getenv("FAKENVML");
  std::FILE *file = path ? std::fopen(path, "r") : nullptr;
  if (!file) return values;
  char of[128], key[32];
  unsigned long long value;
  while (std::fscanf(file, "%127s %31s %llu", of, key, &value) == 3)
    if (uuid == of) values[key] = value;
  std::fclose(file);
  return values;
}

template <class T>
nvmlReturn_t tell(nvmlDevice_t device, const char *key, T *to) {
  Values values = read(device.handle->uuid);
  if (values.empty()) return NVML_ERROR_NOT_FOUND;
  if (values.count("error")) return nvmlReturn_t(values["error"]);
  if (!values.count(key)) return NVML_ERROR_NOT_SUPPORTED;
  *to = T(values[key]);
  return NVML_SUCCESS;
}

std::mutex mutex;
std::map<std::string, nvmlDevice_st> devices;

} // namespace

API nvmlInit_v2(void) { return NVML_SUCCESS; }

API nvmlShutdown(void) { return NVML_SUCCESS; }

API nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
  if (read(uuid).empty()) return NVML_ERROR_NOT_FOUND;
  std::lock_guard<std::mutex> lock(mutex);
  device->handle = &devices.try_emplace(uuid, nvmlDevice_st{uuid}).first->second;
  return NVML_SUCCESS;
}

API nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t, unsigned int *celsius) { return tell(device, "temperature", celsius); }

API nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) { return tell(device, "power", milliwatts); }

API nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t clock, unsigned int *megahertz) {
  return tell(device, clock == NVML_CLOCK_SM ? "sm" : "memory", megahertz);
}

API nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) { return tell(device, "used", &memory->used); }

API nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *percent) { return tell(device, "utilization", &percent->gpu); }

API nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) { return tell(device, "reasons", reasons); }

extern "C" __attribute__((visibility("default"))) const char *nvmlErrorString(nvmlReturn_t result) {
  return result == NVML_ERROR_GPU_IS_LOST ? "GPU is lost" : "fake NVML error";
}
