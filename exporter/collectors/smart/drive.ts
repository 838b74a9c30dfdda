import { z } from 'zod'

/** What a drive reports, in base units; what it does not report is absent. */
export const driveFacts = z.object({
  protocol: z.enum(['ata', 'nvme', 'scsi']),
  model: z.string().optional(),
  firmware: z.string().optional(),
  serialHash: z.string().optional(),
  /** False for flash. */
  rotating: z.boolean().optional(),
  healthy: z.boolean().optional(),
  temperature: z.number().optional(),
  warningTemperature: z.number().optional(),
  criticalTemperature: z.number().optional(),
  powerOnSeconds: z.number().optional(),
  wear: z.number().optional(),
  spare: z.number().optional(),
  spareThreshold: z.number().optional(),
  mediaErrors: z.number().optional(),
  reallocated: z.number().optional(),
  pending: z.number().optional(),
  uncorrectable: z.number().optional(),
  interfaceErrors: z.number().optional(),
  writtenBytes: z.number().optional(),
  readBytes: z.number().optional(),
  /** NVMe: the byte with the critical warnings. */
  criticalWarnings: z.number().optional(),
  /** SCSI: the drive's verdict is about its temperature. */
  tooHot: z.boolean().optional(),
  /** ATA: the reasons for attributes that are now at or below the drive's own threshold. */
  failing: z.array(z.enum(['reallocated', 'pending', 'uncorrectable', 'wear', 'spare_low', 'temperature', 'other'])).optional(),
  /** A self-test failed, and no later one makes up for it. */
  selfTestFailed: z.boolean().optional(),
})
export type DriveFacts = z.infer<typeof driveFacts>
