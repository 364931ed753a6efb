/* The part of ONNX Runtime's C interface that this backend uses.
 *
 * Names, types and the place of each function in the table OrtApi are those of
 * github.com/microsoft/onnxruntime, include/onnxruntime/core/session/onnxruntime_c_api.h, under
 * the MIT licence (THIRD_PARTY_NOTICES). The table only grows at its end; version 20 of it is in
 * every release from 1.20 on. The wheels have no headers, so a place is written as a number here.
 */
#ifndef THRESHER_ONNXRUNTIME_ABI_H
#define THRESHER_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_API_VERSION = 20 };

typedef struct OrtEnv OrtEnv;
typedef struct OrtStatus OrtStatus;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtSession OrtSession;
typedef struct OrtValue OrtValue;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtShapeInfo;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtTensorRTProviderOptionsV2 OrtTensorRTOptions;
typedef struct OrtCUDAProviderOptionsV2 OrtCUDAOptions;

typedef enum {
    ONNX_TYPE_UNDEFINED,
    ONNX_TYPE_FLOAT,
    ONNX_TYPE_UINT8,
    ONNX_TYPE_INT8,
    ONNX_TYPE_UINT16,
    ONNX_TYPE_INT16,
    ONNX_TYPE_INT32,
    ONNX_TYPE_INT64,
    ONNX_TYPE_STRING,
    ONNX_TYPE_BOOL,
    ONNX_TYPE_FLOAT16,
    ONNX_TYPE_DOUBLE,
    ONNX_TYPE_UINT32,
    ONNX_TYPE_UINT64,
    ONNX_TYPE_COMPLEX64,
    ONNX_TYPE_COMPLEX128,
    ONNX_TYPE_BFLOAT16
} OnnxType; /* ONNXTensorElementDataType */

enum { ORT_OK, ORT_FAIL, ORT_INVALID_ARGUMENT, ORT_NO_SUCHFILE }; /* OrtErrorCode */
enum { ORT_SEQUENTIAL, ORT_PARALLEL };                            /* ExecutionMode */
enum { ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_ALL = 99 };
enum { ORT_LOG_VERBOSE, ORT_LOG_INFO, ORT_LOG_WARNING, ORT_LOG_ERROR, ORT_LOG_FATAL };
enum { ORT_DEVICE_ALLOCATOR, ORT_ARENA_ALLOCATOR }; /* OrtAllocatorType */
enum { ORT_MEM_TYPE_DEFAULT };                      /* OrtMemType */

typedef void (*OrtLogger)(void *param, int severity, const char *category, const char *log_id,
                          const char *code_location, const char *message);
typedef void (*OrtFunction)(void);
typedef struct {
    const OrtFunction *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

typedef const char *const *OrtNames;

/* X(place in the table, type returned, name, arguments) */
#define ORT_FUNCTIONS(X)                                                                           \
    X(1, int, GetErrorCode, (const OrtStatus *))                                                   \
    X(2, const char *, GetErrorMessage, (const OrtStatus *))                                       \
    X(4, OrtStatus *, CreateEnvWithCustomLogger,                                                   \
      (OrtLogger, void *, int, const char *, OrtEnv **))                                           \
    X(7, OrtStatus *, CreateSession,                                                               \
      (const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **))                    \
    X(9, OrtStatus *, Run,                                                                         \
      (OrtSession *, const OrtRunOptions *, OrtNames, const OrtValue *const *, size_t, OrtNames,   \
       size_t, OrtValue **))                                                                       \
    X(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **))                               \
    X(13, OrtStatus *, SetSessionExecutionMode, (OrtSessionOptions *, int))                        \
    X(16, OrtStatus *, EnableMemPattern, (OrtSessionOptions *))                                    \
    X(17, OrtStatus *, DisableMemPattern, (OrtSessionOptions *))                                   \
    X(18, OrtStatus *, EnableCpuMemArena, (OrtSessionOptions *))                                   \
    X(19, OrtStatus *, DisableCpuMemArena, (OrtSessionOptions *))                                  \
    X(20, OrtStatus *, SetSessionLogId, (OrtSessionOptions *, const char *))                       \
    X(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int))               \
    X(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int))                           \
    X(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int))                           \
    X(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *))                       \
    X(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *))                      \
    X(32, OrtStatus *, SessionGetOverridableInitializerCount, (const OrtSession *, size_t *))      \
    X(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))      \
    X(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))     \
    X(35, OrtStatus *, SessionGetOverridableInitializerTypeInfo,                                   \
      (const OrtSession *, size_t, OrtTypeInfo **))                                                \
    X(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t, OrtAllocator *, char **)) \
    X(37, OrtStatus *, SessionGetOutputName,                                                       \
      (const OrtSession *, size_t, OrtAllocator *, char **))                                       \
    X(38, OrtStatus *, SessionGetOverridableInitializerName,                                       \
      (const OrtSession *, size_t, OrtAllocator *, char **))                                       \
    X(39, OrtStatus *, CreateRunOptions, (OrtRunOptions **))                                       \
    X(41, OrtStatus *, RunOptionsSetRunLogSeverityLevel, (OrtRunOptions *, int))                   \
    X(48, OrtStatus *, CreateTensorAsOrtValue,                                                     \
      (OrtAllocator *, const int64_t *, size_t, OnnxType, OrtValue **))                            \
    X(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                             \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, OnnxType, OrtValue **))     \
    X(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                \
    X(53, OrtStatus *, GetStringTensorDataLength, (const OrtValue *, size_t *))                    \
    X(54, OrtStatus *, GetStringTensorContent,                                                     \
      (const OrtValue *, void *, size_t, size_t *, size_t))                                        \
    X(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtShapeInfo **))     \
    X(60, OrtStatus *, GetTensorElementType, (const OrtShapeInfo *, OnnxType *))                   \
    X(61, OrtStatus *, GetDimensionsCount, (const OrtShapeInfo *, size_t *))                       \
    X(62, OrtStatus *, GetDimensions, (const OrtShapeInfo *, int64_t *, size_t))                   \
    X(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtShapeInfo **))                 \
    X(68, OrtStatus *, CreateMemoryInfo, (const char *, int, int, int, OrtMemoryInfo **))          \
    X(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *))                                    \
    X(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **))                          \
    X(92, void, ReleaseEnv, (OrtEnv *))                                                            \
    X(93, void, ReleaseStatus, (OrtStatus *))                                                      \
    X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                              \
    X(95, void, ReleaseSession, (OrtSession *))                                                    \
    X(96, void, ReleaseValue, (OrtValue *))                                                        \
    X(97, void, ReleaseRunOptions, (OrtRunOptions *))                                              \
    X(98, void, ReleaseTypeInfo, (OrtTypeInfo *))                                                  \
    X(99, void, ReleaseTensorTypeAndShapeInfo, (OrtShapeInfo *))                                   \
    X(100, void, ReleaseSessionOptions, (OrtSessionOptions *))                                     \
    X(125, OrtStatus *, GetAvailableProviders, (char ***, int *))                                  \
    X(126, OrtStatus *, ReleaseAvailableProviders, (char **, int))                                 \
    X(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *))  \
    X(165, OrtStatus *, AddRunConfigEntry, (OrtRunOptions *, const char *, const char *))          \
    X(170, OrtStatus *, SessionOptionsAppendExecutionProvider_TensorRT_V2,                         \
      (OrtSessionOptions *, const OrtTensorRTOptions *))                                           \
    X(171, OrtStatus *, CreateTensorRTProviderOptions, (OrtTensorRTOptions **))                    \
    X(172, OrtStatus *, UpdateTensorRTProviderOptions,                                             \
      (OrtTensorRTOptions *, OrtNames, OrtNames, size_t))                                          \
    X(174, void, ReleaseTensorRTProviderOptions, (OrtTensorRTOptions *))                           \
    X(204, OrtStatus *, SessionOptionsAppendExecutionProvider_CUDA_V2,                             \
      (OrtSessionOptions *, const OrtCUDAOptions *))                                               \
    X(205, OrtStatus *, CreateCUDAProviderOptions, (OrtCUDAOptions **))                            \
    X(206, OrtStatus *, UpdateCUDAProviderOptions, (OrtCUDAOptions *, OrtNames, OrtNames, size_t)) \
    X(208, void, ReleaseCUDAProviderOptions, (OrtCUDAOptions *))                                   \
    X(216, OrtStatus *, SessionOptionsAppendExecutionProvider,                                     \
      (OrtSessionOptions *, const char *, OrtNames, OrtNames, size_t))                             \
    X(228, OrtStatus *, RegisterCustomOpsLibrary_V2, (OrtSessionOptions *, const char *))          \
    X(252, OrtStatus *, GetResizedStringTensorElementBuffer, (OrtValue *, size_t, size_t, char **))

#define ORT_MEMBER(place, type, name, arguments) type(*name) arguments;
typedef struct {
    ORT_FUNCTIONS(ORT_MEMBER)
} OrtApi;
#undef ORT_MEMBER

#endif
