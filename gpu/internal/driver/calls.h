// The driver's functions that this package calls itself, under the names by which
// the library exports them.
SYMBOL(cuGetErrorName)
SYMBOL(cuGetErrorString)
SYMBOL(cuDeviceGetPCIBusId)
SYMBOL(cuMemHostAlloc)
SYMBOL(cuStreamBeginCapture_v2)
SYMBOL(cuStreamEndCapture)
SYMBOL(cuGraphInstantiateWithFlags)
SYMBOL(cuGraphLaunch)
